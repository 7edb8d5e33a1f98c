"""Stress tests as one plot per run and one table for several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.decisions.calibration import clopper_pearson
from toolkit.decisions.changes import CHANGES, STRENGTHS
from toolkit.decisions.stress import UNCHANGED, Cell, Stress
from toolkit.files import atomic_write
from toolkit.metrics.values import Undefined, Value

_MIDDLE = 3
_COLORS = {"AUROC": "#1a1a1a", "escapes": "#c62828", "overkill": "#1565c0"}


def stress_table(tests: Sequence[Stress]) -> str:
    """Return a Markdown table: a row per change, and three columns per run.

    Each cell has the values at strengths 1, 3 and 5.
    """
    heads = [
        head
        for one in tests
        for head in (
            f"{one.name}: AUROC",
            f"escapes of {one.n_defect}",
            f"overkill of {one.n_good}",
        )
    ]
    lines = [f"| change | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    kinds = [k for k in CHANGES if all(k in one.cells for one in tests)]
    for kind in (UNCHANGED, *kinds):
        cells: list[str] = []
        for one in tests:
            if kind == UNCHANGED:
                shown: Sequence[Cell] = [one.unchanged]
            else:
                shown = [one.cells[kind][strength - 1] for strength in (1, _MIDDLE, 5)]
            cells += [
                " / ".join(_number(cell.auroc) for cell in shown),
                " / ".join(str(cell.escapes) for cell in shown),
                " / ".join(str(cell.overkill) for cell in shown),
            ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot_stress(test: Stress, path: Path) -> None:
    """Draw AUROC, escape rate and overkill rate over the strengths, one panel per change.

    Bands are the 95 % intervals of the two rates by Clopper and Pearson.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    columns = min(5, max(1, len(test.cells)))
    rows = max(1, -(-len(test.cells) // columns))
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.4 * rows + 1.0), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    x = [0, *STRENGTHS]
    for axes, (kind, cells) in zip(panels, test.cells.items(), strict=False):
        every = [test.unchanged, *cells]
        aurocs = [None if isinstance(c.auroc, Undefined) else c.auroc for c in every]
        axes.plot(x, aurocs, color=_COLORS["AUROC"], marker="o", markersize=3, label="AUROC")
        for name, counts, total in (
            ("escapes", [c.escapes for c in every], test.n_defect),
            ("overkill", [c.overkill for c in every], test.n_good),
        ):
            color = _COLORS[name]
            bounds = [clopper_pearson(count, total) for count in counts]
            axes.fill_between(
                x, [b[0] for b in bounds], [b[1] for b in bounds], color=color, alpha=0.12, lw=0
            )
            rates = [count / total for count in counts]
            axes.plot(x, rates, color=color, marker="o", markersize=3, label=f"{name} (share)")
        axes.set_title(kind, fontsize=10)
        axes.grid(alpha=0.25)
        axes.set_xticks(x)
        axes.set_ylim(-0.03, 1.03)
    for axes in panels[len(test.cells) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(test.cells) - columns) : len(test.cells)]:
        axes.set_xlabel("strength", fontsize=9)
    figure.suptitle(
        f"{test.name}, frozen threshold, {test.n_good} good and {test.n_defect} defective images",
        fontsize=10,
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=3, frameon=False, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _number(value: Value) -> str:
    return "-" if isinstance(value, Undefined) else f"{value:.3f}"
