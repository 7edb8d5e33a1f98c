"""Is what `toolkit recommend` picks right?

    python benchmarks/recommend.py RUNS…

RUNS: folders of the runs of one benchmark with five folds (protocol `supervised`), one data set
each. Five times over, two folds choose with their validation parts, and three other folds, which
share no image with these, judge the choice with their test parts. A pick is right if its test
figure is within 0.02 of the best allowed method's or not significantly worse (95 %, paired
bootstrap).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.decisions.recommend import Needs, recommend
from toolkit.leaderboards.board import leaderboard
from toolkit.leaderboards.collect import collect
from toolkit.metrics.values import Undefined
from toolkit.runs.run import Run

FAST = 2 / 3
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "OK or NOK, anything goes": {},
    "OK or NOK, nobody labels": {"max_labels": 0},
    "OK or NOK, a fast line (two thirds of the slowest)": {"max_latency": FAST},
    "heat maps, nobody labels": {"needs": ("maps",), "max_labels": 0},
}
WITHIN = 0.02
FOLDS = 5


def main() -> None:
    """Parse the options, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    print(
        "| data | needs | picks | right | its test figure | best allowed | not significantly worse "
        "|\n|---|---|---|---|---|---|---|"
    )
    right = total = 0
    for place in options.runs:
        runs = [run for run in collect([place]) if run.finished]
        data = runs[0].record["data"]["name"]
        for name, needs in NEEDS.items():
            found = [_judge(runs, dict(needs), turn) for turn in range(FOLDS)]
            right += sum(one["right"] for one in found)
            total += len(found)
            picks = Counter(one["pick"] for one in found).most_common()
            figures = [sum(one[key] for one in found) / FOLDS for key in ("test", "best")]
            print(
                f"| {data} | {name} | {', '.join(f'{pick} ×{n}' for pick, n in picks)} | "
                f"{sum(one['right'] for one in found)} of {FOLDS} | {figures[0]:.3f} | "
                f"{figures[1]:.3f} | {sum(one['tied'] for one in found)} of {FOLDS} |",
                flush=True,
            )
    print(f"\n{right} of {total} picks are right")


def _judge(runs: list[Run], needs: dict[str, Any], turn: int) -> dict[str, Any]:
    """Choose with the validation parts of two folds, judge with the test parts of three."""
    # Fold i tests slot i and validates with slot i + 1.
    choosing = {turn, (turn + 1) % FOLDS}
    judging = {turn, (turn + 3) % FOLDS, (turn + 4) % FOLDS}
    if needs.get("max_latency") == FAST:
        speeds = [run.metrics()["speed"]["ms_per_image_median"] for run in runs]
        needs["max_latency"] = FAST * max(speeds)
    with contextlib.redirect_stderr(io.StringIO()):
        found = recommend([r for r in runs if r.record["split"]["fold"] in choosing], **needs)
    assert found.chosen is not None, "no method meets the needs"
    figure = Needs(outputs=tuple(needs.get("needs", ()))).figure
    board = leaderboard([r for r in runs if r.record["split"]["fold"] in judging], sort=figure)
    (group,) = board.groups
    allowed = {one.name for one in found.candidates if not one.refused}
    values = {
        name: value
        for name, row in zip(group.names, group.rows, strict=True)
        if name in allowed and not isinstance(value := row.values[figure], Undefined)
    }
    best = max(values, key=values.__getitem__)
    pick = found.chosen.name
    places = tuple(sorted((group.names.index(best), group.names.index(pick))))
    tested = next((d for d in group.differences if (d.first, d.second) == places), None)
    tied = best == pick or (tested is not None and not tested.significant)
    return {
        "pick": pick,
        "test": values[pick],
        "best": values[best],
        "tied": tied,
        "right": tied or values[best] - values[pick] <= WITHIN,
    }


if __name__ == "__main__":
    main()
