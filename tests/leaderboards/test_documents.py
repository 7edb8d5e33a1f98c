"""The leaderboard in documents: only the text between the markers changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.leaderboards.test_render import GROUP, REFERENCE, ROW
from toolkit.errors import ConfigError, RunError
from toolkit.leaderboards.board import Board
from toolkit.leaderboards.documents import write_documents
from toolkit.leaderboards.model import Difference

ROWS = (
    replace(ROW, rank=1, seeds=(0, 1), spread={"auroc": 0.01}),
    replace(ROW, entry="b", rank=2, published={"value": 0.5, "source": "someone"}),
)
BOARD = Board(
    (
        replace(
            GROUP,
            rows=ROWS,
            columns=("auroc", "published", "report.x"),
            differences=(Difference(0, 1, 0.1, low=0.05, high=0.2),),
            references=(REFERENCE,),
        ),
        GROUP,
    )
)
BOARD = replace(
    BOARD,
    groups=(
        replace(
            BOARD.groups[0],
            rows=tuple(replace(r, values={**r.values, "report.x": 1.5}) for r in ROWS),
        ),
        GROUP,
    ),
)
TEXT = """# Title

<!-- leaderboard: start bottle short -->
stale figures
<!-- leaderboard: end bottle -->
between
<!-- leaderboard: start other -->
kept
<!-- leaderboard: end other -->
<!-- leaderboard: start bottle -->
<!-- leaderboard: end bottle -->
after
"""


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    document, stored = tmp_path / "README.md", tmp_path / "docs/board.json"
    document.write_text(TEXT)
    write_documents(BOARD, name="bottle", stored=stored, documents=[document])
    text = document.read_text()
    assert "stale figures" not in text
    for kept in ("# Title\n", "\nbetween\n", "\nkept\n", "\nafter\n"):
        assert kept in text
    assert text.count("| patchcore |") == 2 * 2  # a row in each of two groups, long and short
    assert text.count("score = ") == len(BOARD.groups)  # the rows of each share it
    # The same again changes nothing.
    write_documents(BOARD, name="bottle", stored=stored, documents=[document])
    assert document.read_text() == text
    assert json.loads(stored.read_text()) == json.loads(json.dumps(BOARD.to_dict()))


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("nothing", "bottle", "no markers; add"),
        (TEXT, "cable", "no markers; add"),
        ("<!-- leaderboard: start bottle -->\n", "bottle", "end bottle -->' is missing"),
        # the end of a later one is not its end
        (
            "<!-- leaderboard: start a -->\n<!-- leaderboard: start b -->\n"
            "<!-- leaderboard: end b -->\n<!-- leaderboard: end a -->\n",
            "a",
            "is missing",
        ),
        (TEXT, "../x", "use letters"),
    ],
)
def test_nothing_is_written_where_it_does_not_fit(
    tmp_path: Path, text: str, name: str, said: str
) -> None:
    document, stored = tmp_path / "README.md", tmp_path / "board.json"
    document.write_text(text)
    with pytest.raises(ConfigError, match=said):
        write_documents(BOARD, name=name, stored=stored, documents=[document])
    assert document.read_text() == text
    assert not stored.exists()


def test_a_board_that_lacks_runs_is_not_written(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(TEXT)
    partial = replace(BOARD, left_out=("runs/x: damaged",))
    with pytest.raises(RunError, match="runs/x: damaged"):
        write_documents(partial, name="bottle", stored=tmp_path / "b", documents=[document])
    assert document.read_text() == TEXT
    with pytest.raises(ConfigError, match="cannot be read"):
        write_documents(BOARD, name="a", stored=tmp_path / "b", documents=[tmp_path / "no.md"])


def test_a_document_gets_no_markup_from_names(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(TEXT)
    row = replace(ROW, entry="<img src=x onerror=alert(1)>")
    board = Board((replace(GROUP, rows=(row,)),))
    write_documents(board, name="bottle", stored=tmp_path / "b.json", documents=[document])
    assert "<img" not in document.read_text()
