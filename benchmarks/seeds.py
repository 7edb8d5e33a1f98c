"""How much of a difference between methods is the seed: spread over the seeds of a benchmark.

    toolkit benchmark configs/benchmark/seeds.yaml --runs seeds \
        --data mvtec/bottle --data mvtec/transistor
    python benchmarks/seeds.py seeds --columns auroc,f1,map50

Prints one row per method and category: mean and standard deviation (n - 1) over the seeds, and the
range from the lowest to the highest. Then each pair of methods: the difference of their means, its
95 % interval over test images alone (as if only the first seed had been trained) and over seeds and
images, and how often the better one of two single trainings is the one with the better mean.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.leaderboards.board import leaderboard
from toolkit.leaderboards.columns import column
from toolkit.leaderboards.model import Group
from toolkit.metrics.values import Undefined

Values = dict[str, list[float]]
"""Of each method its value for each seed."""


def main() -> None:
    """Read the runs, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--columns", default="auroc,map50")
    parser.add_argument("--pairs", default="auroc", help="column of the table of pairs")
    options = parser.parse_args()
    names = options.columns.split(",")
    print(
        "| category | method | seeds |", *(f" {column(n).heading} | range |" for n in names), sep=""
    )
    print("|---|---|---|" + "---|---|" * len(names))
    for group in groups(options.runs, names[0], seeds="each"):
        by_column = {name: values(group, name) for name in names}
        for method in sorted({row.entry for row in group.rows}):
            cells = []
            for name in names:
                found = by_column[name].get(method, [])
                cells += [spread(found), f"{min(found):.3f} to {max(found):.3f}" if found else "–"]
            count = sum(row.entry == method for row in group.rows)
            print(f"| {group.data} | {method} | {count} | {' | '.join(cells)} |")
    print(f"\n| category | pair, {column(options.pairs).heading} | difference of means "
          "| 95 %, first seeds | 95 %, all seeds | one training each: same order |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    pooled = groups(options.runs, options.pairs, seeds="pooled")
    single = groups(options.runs, options.pairs, seeds="each")
    for whole, each in zip(pooled, single, strict=True):
        pairs(whole, each, options.pairs)


def groups(runs: Path, sort: str, *, seeds: str) -> list[Group]:
    """Return the table of each category, in the order of their names."""
    return sorted(leaderboard(runs, sort=sort, seeds=seeds).groups, key=lambda one: one.data)


def values(group: Group, name: str) -> Values:
    """Return a column of each method, seed by seed."""
    found: Values = {}
    for row in sorted(group.rows, key=lambda one: one.seed):
        value = row.values.get(name, Undefined("no such column"))
        if not isinstance(value, Undefined):
            found.setdefault(row.entry, []).append(float(value))
    return found


def spread(found: list[float]) -> str:
    """Return mean and standard deviation as text."""
    if len(found) < 2:
        return f"{found[0]:.3f}" if found else "–"
    return f"{statistics.fmean(found):.3f} ± {statistics.stdev(found):.3f}"


def pairs(whole: Group, each: Group, name: str) -> None:
    """Print one row per pair of methods."""
    listed = values(each, name)
    first = {row.entry: i for i, row in reversed(list(enumerate(each.rows))) if row.seed == 0}
    alone = {(one.first, one.second): one for one in each.differences}
    for one in whole.differences:
        a, b = whole.rows[one.first].entry, whole.rows[one.second].entry
        place = sorted((first[a], first[b]))
        found = alone.get((place[0], place[1]))
        before = "–"
        if found is not None:
            sign = 1 if place[0] == first[a] else -1
            ends = sorted((sign * found.low, sign * found.high))
            before = f"{ends[0]:+.3f} to {ends[1]:+.3f}"
        trials = list(product(listed[a], listed[b]))
        same = sum((x > y) + 0.5 * (x == y) for x, y in trials) / len(trials)
        print(f"| {whole.data} | {a} − {b} | {one.value:+.3f} | {before} "
              f"| {one.low:+.3f} to {one.high:+.3f} | {same:.0%} |")  # fmt: skip


if __name__ == "__main__":
    main()
