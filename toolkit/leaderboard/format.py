"""What stands in the cells, over the columns and below the table, whatever the form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.leaderboard.columns import KNOWN, TEXTS, column
from toolkit.leaderboard.model import Board, Group, Reference, Row
from toolkit.metrics.values import Undefined, Value

METHOD, RANK = "method", "#"
NOTHING = "-"
_ABOUT_TEXTS = {
    "labels": "labels: training defects and what was told of them (the threshold also uses the "
    "labels of the validation part)",
    "published": "published: a figure that others report, source below",
}


def headings(group: Group) -> list[str]:
    """Return the headings: rank, name, then the columns of the group."""
    return [RANK, METHOD, *(_heading(name) for name in group.columns)]


def is_numeric(name: str) -> bool:
    """Whether a column holds figures."""
    return name not in TEXTS or name == "published"


def cells(group: Group, place: int) -> list[str]:
    """Return the cells of the row at a place, as many as there are headings."""
    row = group.rows[place]
    rank = NOTHING if row.rank is None else str(row.rank)
    return [rank, group.names[place], *(_cell(row, name, group) for name in group.columns)]


def reference_cells(group: Group, reference: Reference) -> list[str]:
    """Return the cells of a published row."""
    shown = []
    for name in group.columns:
        value = reference.values.get(name)
        shown.append(NOTHING if value is None else number(value, digits=column(name).digits))
    return ["", reference_name(group, reference), *shown]


def reference_name(group: Group, reference: Reference) -> str:
    """Name a published row; a mean over all categories says so."""
    of = "" if reference.data == group.data else f", mean of {reference.data}"
    return f"{reference.method}{of}"


def number(value: Value, *, digits: int = 3) -> str:
    """Write a figure; `-` where there is none."""
    return NOTHING if isinstance(value, Undefined) else f"{value:.{digits}f}"


def title(group: Group) -> str:
    """Say what the group is about."""
    folds = (
        "fold " + ", ".join(map(str, group.folds))
        if len(group.folds) == 1
        else f"folds {', '.join(map(str, group.folds))} pooled"
    )
    return f"{group.data}: protocol {group.protocol}, {folds}"


def subtitle(group: Group) -> str:
    """Say on what its figures rest."""
    return (
        f"{group.test_images} test images ({group.test_defects} defective); "
        f"split {group.split_hash}; data {group.fingerprint[:8]}; {group.hardware}"
    )


def notes(group: Group) -> list[str]:
    """Say, row by row, what has no column: score, weights, prompts, seeds, published figures.

    Rows of which the same is to be said share a line.
    """
    said: list[tuple[str, str]] = []
    for name, row in zip(group.names, group.rows, strict=True):
        source = f" ({row.weights_source})" if row.weights_source else ""
        prompts = f"; prompts {row.prompts_source}" if row.prompts_source else ""
        said.append((name, f"score = {row.scoring}; weights {row.weights}{source}{prompts}"))
        if len(row.seeds) > 1:
            said.append((name, f"seeds {', '.join(map(str, row.seeds))}"))
        if row.published is not None:
            source = row.published.get("source", "source not named")
            said.append((name, f"published {_published(row)}{_of(row.published)} ({source})"))
        said += [(name, line) for line in prompted_lines(row.prompted)]
        if row.forgetting:
            said.append((name, forgetting_line(row.forgetting)))
    return [*_shared(said), *_real_differences(group)]


def _shared(said: Iterable[tuple[str, str]]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, text in said:
        names.setdefault(text, []).append(name)
    return [f"{', '.join(whose)}: {text}" for text, whose in names.items()]


def _real_differences(group: Group) -> list[str]:
    """Say which rows are significantly better than which, in the column that they are sorted by."""
    if len(group.rows) < 2:
        return []
    heading, names = column(group.sort).heading, group.names
    if not group.differences:
        return [
            f"{heading}: not known which differences are real (it is not resampled, or the runs "
            "are of an earlier version: toolkit evaluate RUNS)"
        ]
    better: dict[str, list[str]] = {}
    for place, name in enumerate(names):
        beaten = [
            f"{names[one.second]} ({one.value:+.3f}, 95 % {one.low:+.3f} to {one.high:+.3f})"
            for one in group.differences
            if one.first == place and one.real
        ]
        if beaten:
            better.setdefault(", ".join(beaten), []).append(name)
    lines = [
        f"{heading}: {', '.join(whose)} {'is' if len(whose) == 1 else 'are'} significantly better than "
        f"{beaten}"
        for beaten, whose in better.items()
    ]
    return lines or [f"{heading}: no difference between these methods is real"]


def reference_notes(group: Group) -> list[str]:
    """Say, row by row, who published it."""
    return [
        f"{reference_name(group, reference)}: published, not measured here ({reference.source})"
        for reference in group.references
    ]


def prompted_lines(prompted: Mapping[str, Any]) -> list[str]:
    """Say, per kind of true prompt, what fine-tuning changed."""
    lines = []
    for kind, figures in prompted.items():
        interval = figures["interval"]
        spread = (
            f"95 % interval {interval['low']:+.3f} to {interval['high']:+.3f}"
            if "low" in interval
            else interval["reason"]
        )
        lines.append(
            f"true {kind} prompts: IoU {figures['zero_shot']:.3f} zero-shot, "
            f"{figures['tuned']:.3f} fine-tuned ({figures['difference']:+.3f}, {spread}; "
            f"{figures['regions']} regions)"
        )
    return lines


def forgetting_line(found: Mapping[str, Any]) -> str:
    """Say what fine-tuning cost on the classes that the base knew."""
    return (
        f"mAP50 of the {found['classes']:.0f} classes that the base knew: "
        f"{found['map50_before']:.3f} before, {found['map50_after']:.3f} after "
        f"({found['map50_change']:+.3f}; {found['images']:.0f} images)"
    )


def board_legend(board: Board) -> str:
    """Return the legend of all columns that a board shows."""
    names = dict.fromkeys(name for group in board.groups for name in group.columns)
    spread = any(row.spread for group in board.groups for row in group.rows)
    sorts = dict.fromkeys(column(group.sort).heading for group in board.groups)
    return legend(tuple(names), sort=" or ".join(sorts) or "AUROC", spread=spread)


def legend(names: tuple[str, ...], *, sort: str, spread: bool = False) -> str:
    """Say what the columns mean, in one paragraph.

    Args:
        names: of the columns.
        sort: heading of the column that the rows are ranked by.
        spread: whether a row stands for several seeds.
    """
    parts = [
        f"{RANK}: 1 + the number of methods that are significantly better in {sort}, by "
        "the paired stratified bootstrap on the same test images (the 95 % interval of the "
        "difference leaves 0 out; not corrected for the number of pairs); equal numbers are ties"
    ]
    about: dict[str, list[str]] = {}
    for name in names:
        if name in KNOWN and KNOWN[name].about:
            about.setdefault(KNOWN[name].about, []).append(KNOWN[name].heading)
        elif name in _ABOUT_TEXTS:
            parts.append(_ABOUT_TEXTS[name])
        elif "." in name:
            place = name.rpartition(".")[0]
            about.setdefault(f"below {place} in metrics.json", []).append(column(name).heading)
    figures = [f"{', '.join(shown)}: {text}" for text, shown in about.items()]
    brackets = ["in brackets: the 95 % bootstrap interval over the test images"]
    seeds = ["±: standard deviation over seeds, the figure being their mean"] if spread else []
    text = ". ".join([*figures, *parts, *brackets, *seeds])
    return f"{text}."


def _heading(name: str) -> str:
    return name if name in TEXTS else column(name).heading


def _cell(row: Row, name: str, group: Group) -> str:
    if name == "labels":
        return row.labels
    if name == "weights":
        return row.weights
    if name == "published":
        return _published(row)
    shown = column(name)
    value = row.values[name]
    text = number(value, digits=shown.digits)
    if isinstance(value, Undefined):
        return text
    if name in row.spread and name not in ("fit", "ms"):
        return f"{text} ± {row.spread[name]:.{shown.digits}f}"
    wanted = group.all_intervals or name == _bracketed(group)
    interval = row.intervals.get(shown.interval) if wanted else None
    if isinstance(interval, Mapping) and "low" in interval:
        return f"{text} [{interval['low']:.2f}, {interval['high']:.2f}]"
    return text


def _bracketed(group: Group) -> str:
    """Return the one column that shows its interval: that of the order, else the first with one."""
    return next(
        (name for name in (group.sort, *group.columns) if name in group.columns and _has(name)), ""
    )


def _has(name: str) -> bool:
    return name not in TEXTS and bool(column(name).interval)


def _published(row: Row) -> str:
    if row.published is None:
        return NOTHING
    value = row.published["value"]
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _of(published: Mapping[str, Any]) -> str:
    return f" as {_heading(str(published['column']))}" if published.get("column") else ""
