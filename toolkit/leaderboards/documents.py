"""The leaderboard inside documents, written between two markers.

<!-- leaderboard: start bottle -->          (or `start bottle short`: without notes and legend)
<!-- leaderboard: end bottle -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from toolkit.errors import ConfigError, RunError
from toolkit.files import write_text
from toolkit.leaderboards.board import Board

_START = re.compile(r"<!-- leaderboard: start (?P<name>\S+)(?P<short> short)? -->\n")


def write_documents(board: Board, *, name: str, stored: Path, documents: Sequence[Path]) -> None:
    """Store a board and write it into documents.

    Args:
        board: the leaderboard; no run may have been left out.
        name: the name in the markers.
        stored: the JSON file to store it in.
        documents: files that hold the markers.

    Raises:
        RunError: a run was left out, so the document would hide it.
        ConfigError: the name does not fit, or a document cannot be read or has no such markers;
            nothing has been written then.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"--name {name}: use letters, digits, dots and dashes")
    if board.left_out:
        raise RunError(f"{board.left_out[0]} (documents show whole boards only; nothing written)")
    texts = {}
    for document in documents:
        old = _read(document)
        if name not in names_in(old):
            raise ConfigError(
                f"{document}: no markers; add the lines '<!-- leaderboard: start {name} -->' and "
                f"'<!-- leaderboard: end {name} -->'"
            )
        texts[document] = written_into(old, name=name, board=board, source=document)
    write_text(stored, board.render("json") + "\n")
    for document, text in texts.items():
        write_text(document, text)


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of the boards that a document has markers for."""
    return tuple(dict.fromkeys(found["name"] for found in _START.finditer(text)))


def written_into(text: str, *, name: str, board: Board, source: Path) -> str:
    """Return a document with a board between its markers.

    Raises:
        ConfigError: a start marker has no end.
    """
    parts, place = [], 0
    for found in _START.finditer(text):
        if found["name"] != name:
            continue
        end = text.find(f"<!-- leaderboard: end {name} -->", found.end())
        following = _START.search(text, found.end())
        if end < 0 or (following is not None and following.start() < end):
            raise ConfigError(f"{source}: '<!-- leaderboard: end {name} -->' is missing; add it")
        text_between = board.to_short_markdown() if found["short"] else board.to_markdown()
        parts += [text[place : found.end()], f"\n{text_between}\n\n"]
        place = end
    return "".join([*parts, text[place:]])


def _read(document: Path) -> str:
    try:
        return document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{document}: cannot be read ({error}); check the path") from error
