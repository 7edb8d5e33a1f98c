"""Texts of the leaderboard, whatever its format: headings, cells, notes and the legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolkit.errors import printable
from toolkit.leaderboards.columns import KNOWN, NOT_GIVEN, TEXTS, column
from toolkit.leaderboards.model import Group, Row
from toolkit.leaderboards.published import Reference
from toolkit.metrics.values import Undefined, Value

METHOD, RANK, TOP = "method", "#", "*"
NOTHING = "-"
PARTS = {"test": "test", "val": "validation"}
_ABOUT_TEXTS = {
    "labels": "labels: number and kind of the training defects (the threshold also uses the labels "
    "of the validation part)",
    "published": "published: a value that others report, source below",
}


def headings(group: Group) -> list[str]:
    """Return the headings: rank, name, then the columns of the group."""
    return [RANK, METHOD, *(_heading(name) for name in group.columns)]


def is_numeric(name: str) -> bool:
    """Whether a column holds numbers."""
    return name not in TEXTS or name == "published"


def cells(group: Group, index: int) -> list[str]:
    """Return the cells of a row, as many as there are headings."""
    row = group.rows[index]
    rank = NOTHING if row.rank is None else f"{row.rank}{TOP if row.in_top_group else ''}"
    texts = [rank, group.names[index], *(_cell(row, name, group) for name in group.columns)]
    return [printable(text) for text in texts]


def reference_cells(group: Group, reference: Reference) -> list[str]:
    """Return the cells of a published row."""
    values = []
    for name in group.columns:
        value = reference.values.get(name)
        values.append(NOTHING if value is None else number(value, digits=column(name).digits))
    return ["", reference_name(group, reference), *values]


def reference_name(group: Group, reference: Reference) -> str:
    """Return the name of a published row, and of its data where that is a mean over several."""
    of = "" if reference.data == group.data else f", mean of {reference.data}"
    return printable(f"{reference.method}{of}")


def number(value: Value, *, digits: int = 3) -> str:
    """Format a metric; `-` where there is none."""
    return NOTHING if isinstance(value, Undefined) else f"{value:.{digits}f}"


def title(group: Group) -> str:
    """Return data, protocol and folds of a group."""
    return printable(f"{group.data}: protocol {group.protocol}, {group.tested}")


def subtitle(group: Group) -> str:
    """Return the number of images, the hashes of split and data, and the hardware."""
    return printable(
        f"{group.test_images} {PARTS[group.part]} images ({group.test_defects} defective); "
        f"split {group.split_hash}; data {group.fingerprint[:8]}; {group.hardware}"
    )


def notes(group: Group) -> list[str]:
    """Return what has no column: top group, scores, weights, thresholds, seeds, differences.

    Rows with the same text share a line.
    """
    texts: list[tuple[str, str]] = []
    for name, row in zip(group.names, group.rows, strict=True):
        source = f" ({row.weights_source})" if row.weights_source else ""
        prompts = f"; prompts {row.prompts_source}" if row.prompts_source else ""
        texts.append(
            (name, f"score = {row.score_description}; weights {row.weights}{source}{prompts}")
        )
        texts += [(name, line) for line in threshold_lines(row.values)]
        if len(row.seeds) > 1:
            texts.append((name, f"seeds {', '.join(map(str, row.seeds))}"))
        if row.published is not None:
            source = row.published.get("source", "source not named")
            texts.append((name, f"published {_published(row)}{_of(row.published)} ({source})"))
        texts += [(name, line) for line in prompted_lines(row.prompted)]
        if row.retention:
            texts.append((name, retention_line(row.retention)))
    lines = [
        *top_group_note(group),
        *(f"warning: {line}" for line in group.warnings),
        *_shared(texts),
        *_significant_differences(group),
    ]
    return [printable(line) for line in lines]


def top_group_note(group: Group) -> list[str]:
    """Return the line that explains the mark of the top group; none where nothing is marked."""
    if not any(row.in_top_group for row in group.rows):
        return []
    return [f"{TOP} not significantly different from the best in {column(group.sort).heading}"]


def _shared(texts: Iterable[tuple[str, str]]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, text in texts:
        names.setdefault(text, []).append(name)
    return [f"{', '.join(whose)}: {text}" for text, whose in names.items()]


def _significant_differences(group: Group) -> list[str]:
    """Return which rows are significantly better than which, in the column of the order."""
    if len(group.rows) < 2:
        return []
    heading, names = column(group.sort).heading, group.names
    if not group.differences:
        return [
            f"{heading}: differences are not tested (the column is not resampled, or the runs are "
            "of an earlier version: toolkit evaluate RUNS)"
        ]
    better: dict[str, list[str]] = {}
    for index, name in enumerate(names):
        worse = [
            f"{names[one.second]} ({one.value:+.3f}, 95 % {one.low:+.3f} to {one.high:+.3f})"
            for one in group.differences
            if one.first == index and one.significant
        ]
        if worse:
            better.setdefault(", ".join(worse), []).append(name)
    lines = [
        f"{heading}: {', '.join(whose)} {'is' if len(whose) == 1 else 'are'} significantly better "
        f"than {worse_names}"
        for worse_names, whose in better.items()
    ]
    return lines or [f"{heading}: no difference between these methods is significant"]


def reference_notes(group: Group) -> list[str]:
    """Return the source of each published row."""
    return [
        printable(f"{reference_name(group, one)}: published, not measured here ({one.source})")
        for one in group.references
    ]


def threshold_lines(values: Mapping[str, Value]) -> list[str]:
    """Return from how many images the threshold came, and what it promises; empty if unknown."""
    images, promise = (values.get(name, NOT_GIVEN) for name in ("val_images", "promise"))
    if isinstance(images, Undefined):
        return []
    text = f"threshold from {images:.0f} validation images"
    if isinstance(promise, Undefined):
        return [text]
    return [f"{text}: flags at most {promise:.0%} of good products (95 % confidence)"]


def prompted_lines(prompted: Mapping[str, Any]) -> list[str]:
    """Return the gain of fine-tuning per kind of true prompt."""
    lines = []
    for kind, found in prompted.items():
        if not _has_numbers(found, "zero_shot", "tuned", "difference", "regions"):
            continue
        interval = found.get("interval")
        spread = (
            f"95 % interval {interval['low']:+.3f} to {interval['high']:+.3f}"
            if _has_numbers(interval, "low", "high")
            else interval.get("reason", "no interval")
            if isinstance(interval, Mapping)
            else "no interval"
        )
        lines.append(
            f"true {kind} prompts: IoU {found['zero_shot']:.3f} zero-shot, "
            f"{found['tuned']:.3f} fine-tuned ({found['difference']:+.3f}, {spread}; "
            f"{found['regions']} regions)"
        )
    return lines


def retention_line(found: Mapping[str, Any]) -> str:
    """Return what fine-tuning cost on the classes of the base model."""
    if not _has_numbers(found, "classes", "map50_before", "map50_after", "map50_change", "images"):
        return "mAP50 of the classes of the base model: damaged"
    return (
        f"mAP50 of the {found['classes']:.0f} classes of the base model: "
        f"{found['map50_before']:.3f} before, {found['map50_after']:.3f} after "
        f"({found['map50_change']:+.3f}; {found['images']:.0f} images)"
    )


def _has_numbers(found: Any, *names: str) -> bool:
    return isinstance(found, Mapping) and all(
        isinstance(found.get(name), int | float) for name in names
    )


def board_legend(groups: Sequence[Group]) -> str:
    """Return the legend of all columns of a leaderboard."""
    names = dict.fromkeys(name for group in groups for name in group.columns)
    spread = any(row.spread for group in groups for row in group.rows)
    sorts = dict.fromkeys(column(group.sort).heading for group in groups)
    return legend(tuple(names), sort=" or ".join(sorts) or "AUROC", spread=spread)


def legend(names: tuple[str, ...], *, sort: str, spread: bool = False) -> str:
    """Return the meaning of the columns, in one paragraph.

    Args:
        names: of the columns.
        sort: heading of the column that the rows are ranked by.
        spread: whether a row stands for several seeds.
    """
    parts = [
        f"{RANK}: rank by {sort}, equal values share one; {TOP}: not significantly different from "
        "the best (the 95 % interval of the difference contains 0, by the paired stratified "
        "bootstrap on the same images; not corrected for the number of methods)"
    ]
    about: dict[str, list[str]] = {}
    for name in names:
        if name in KNOWN and KNOWN[name].about:
            about.setdefault(KNOWN[name].about, []).append(KNOWN[name].heading)
        elif name in _ABOUT_TEXTS:
            parts.append(_ABOUT_TEXTS[name])
        elif "." in name:
            parent = name.rpartition(".")[0]
            about.setdefault(f"below {parent} in metrics.json", []).append(column(name).heading)
    columns = [f"{', '.join(named)}: {text}" for text, named in about.items()]
    brackets = ["in brackets: the 95 % bootstrap interval over the images"]
    seeds = (
        ["±: standard deviation over seeds, beside their mean; differences count them, too"]
        if spread
        else []
    )
    text = ". ".join([*columns, *parts, *brackets, *seeds])
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
    known = column(name)
    value = row.values[name]
    text = number(value, digits=known.digits)
    if isinstance(value, Undefined):
        return text
    if name in row.spread and name not in ("fit_seconds", "latency"):
        return f"{text} ± {row.spread[name]:.{known.digits}f}"
    wanted = group.all_intervals or known.with_interval or name == _bracketed(group)
    interval = row.intervals.get(known.interval) if wanted else None
    if _has_numbers(interval, "low", "high"):
        digits = 2 if known.digits else 0
        low, high = (f"{interval[end]:.{digits}f}" for end in ("low", "high"))  # type: ignore[index]
        return f"{text} [{low}, {high}]"
    return text


def _bracketed(group: Group) -> str:
    """Return the one column with its interval: that of the order, else the first that has one."""
    names = [name for name in (group.sort, *group.columns) if name in group.columns]
    known = ((name, column(name)) for name in names if name not in TEXTS)
    return next((name for name, one in known if one.interval and not one.with_interval), "")


def _published(row: Row) -> str:
    if row.published is None:
        return NOTHING
    value = row.published["value"]
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _of(published: Mapping[str, Any]) -> str:
    return f" as {_heading(str(published['column']))}" if published.get("column") else ""
