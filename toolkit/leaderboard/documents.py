"""The leaderboard inside documents: written between two markers, from a file kept beside them.

<!-- leaderboard: start bottle -->          (or `start bottle short`: without notes and legend)
<!-- leaderboard: end bottle -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError, RunError
from toolkit.files import read_json, write_text
from toolkit.leaderboard.model import Board, Difference, Group, Reference, Row
from toolkit.leaderboard.render import render, render_short
from toolkit.metrics.values import MetricError, value_from_json

_START = re.compile(r"<!-- leaderboard: start (?P<name>\S+)(?P<short> short)? -->\n")


def write_documents(board: Board, *, name: str, stored: Path, documents: Sequence[Path]) -> None:
    """Store a board and write it into documents.

    Args:
        board: what to show; nothing may have been left out.
        name: the name in the markers.
        stored: the JSON file that the documents can be made from again.
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
    write_text(stored, render(board, "json") + "\n")
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
        shown = render_short(board) if found["short"] else render(board, "markdown")
        parts += [text[place : found.end()], f"\n{shown}\n\n"]
        place = end
    return "".join([*parts, text[place:]])


def read_board(stored: Path) -> Board:
    """Read a board back from the JSON form.

    Raises:
        ToolkitError: the file is missing, damaged, or of another version.
    """
    raw = read_json(stored)
    try:
        groups = tuple(_group(one) for one in raw["groups"])
        return Board(groups=groups, left_out=tuple(raw["left_out"]))
    except (KeyError, TypeError, AttributeError, MetricError) as error:
        raise RunError(
            f"{stored}: no stored leaderboard ({error}); write it anew with: toolkit leaderboard "
            "--write"
        ) from error


def _group(raw: Mapping[str, Any]) -> Group:
    plain = _plain(Group, raw)
    rows = tuple(_row(one) for one in raw["rows"])
    shell = Group(**{**plain, "rows": rows, "differences": (), "references": ()})
    place = {name: i for i, name in enumerate(shell.names)}
    found = tuple(
        Difference(
            first=place[one["first"]],
            second=place[one["second"]],
            value=one["value"],
            low=one["low"],
            high=one["high"],
        )
        for one in raw["differences"]
    )
    references = tuple(Reference(**_plain(Reference, one)) for one in raw["references"])
    return Group(**{**plain, "rows": rows, "differences": found, "references": references})


def _row(raw: Mapping[str, Any]) -> Row:
    values = {name: value_from_json(value) for name, value in raw["values"].items()}
    runs = tuple(Path(place) for place in raw["runs"])
    return Row(**{**_plain(Row, raw), "values": values, "runs": runs})


def _plain(cls: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    # What an earlier version did not store stands at its default.
    wanted = [
        one
        for one in fields(cls)
        if one.name in raw or (one.default is MISSING and one.default_factory is MISSING)
    ]
    found = {one.name: raw[one.name] for one in wanted}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _read(document: Path) -> str:
    try:
        return document.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{document}: cannot be read ({error}); check the path") from error
