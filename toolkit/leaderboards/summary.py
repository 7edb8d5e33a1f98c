"""The leaderboard of one finished run."""

from __future__ import annotations

from toolkit.leaderboards.board import leaderboard
from toolkit.runs.run import Run


def run_summary(run: Run) -> str:
    """Return the leaderboard of this run alone."""
    return str(leaderboard(run))
