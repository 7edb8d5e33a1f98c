"""One finished run in a few lines."""

from __future__ import annotations

from toolkit.leaderboard.board import build_board
from toolkit.leaderboard.render import render
from toolkit.runs.run import Run


def run_summary(run: Run) -> str:
    """Return the leaderboard of this run alone."""
    return render(build_board([run]), "table")
