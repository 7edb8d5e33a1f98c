"""The leaderboard as a terminal table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.errors import ConfigError, did_you_mean
from toolkit.leaderboard.board import Board, Group, Row
from toolkit.metrics.values import Undefined, Value

HEADINGS = (
    "method", "AUROC", "AP", "F1", "acc", "mAP50", "IoU", "pixel", "AUPRO",
    "labels", "weights", "fit", "ms",
)  # fmt: skip
LEGEND = (
    "AUROC, AP: image level, on raw scores; in brackets the 95 % bootstrap interval over the test "
    "images. F1, acc: at the threshold chosen on validation. "
    "mAP50: boxes. IoU: union mask on defective images. pixel, AUPRO: pixel AUROC and area under "
    "PRO to 0.3. labels: training defects and what was told of them (the threshold also uses the "
    "labels of the validation part). fit: seconds. ms: per image, from file to prediction."
)


def render(board: Board, form: str) -> str:
    """Return the leaderboard as text.

    Args:
        board: what to show.
        form: `table`, `markdown`, `csv` or `json`.

    Raises:
        ConfigError: another form.
    """
    if form not in FORMS:
        raise ConfigError(f"--format {form}: unknown{did_you_mean(form, FORMS)}")
    return FORMS[form](board)


def _table(board: Board) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    # No markup: brackets in the name of a run or a folder are part of it.
    console = Console(file=io.StringIO(), width=118, highlight=False, markup=False, emoji=False)
    for group in board.groups:
        console.print(f"\n{_title(group)}\n{_subtitle(group)}", soft_wrap=True)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
        for heading in HEADINGS:
            numeric = heading not in ("method", "labels", "weights")
            # Figures are never cut; names of weights are, since the notes below spell them out.
            table.add_column(
                heading,
                justify="right" if numeric else "left",
                no_wrap=heading != "method",
                min_width=13 if heading == "method" else None,
                max_width=14 if heading == "weights" else None,
            )
        for name, row in zip(_names(group), group.rows, strict=True):
            table.add_row(*_cells(name, row))
        console.print(table)
        for line in _notes(group):
            console.print(line, soft_wrap=True)
    for line in board.left_out:
        console.print(f"left out: {line}", soft_wrap=True)
    console.print(f"\n{LEGEND}")
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _markdown(board: Board) -> str:
    lines = []
    for group in board.groups:
        lines += [f"### {_title(group)}", "", _subtitle(group), ""]
        lines.append("| " + " | ".join(HEADINGS) + " |")
        lines.append("|---" * len(HEADINGS) + "|")
        for name, row in zip(_names(group), group.rows, strict=True):
            cells = [cell.replace("|", "\\|") for cell in _cells(name, row)]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *(f"- {line}" for line in _notes(group)), ""]
    lines += [f"- left out: {line}" for line in board.left_out]
    return "\n".join([*lines, LEGEND])


def _csv(board: Board) -> str:
    text = io.StringIO()
    writer = None
    for group in board.groups:
        for record in _records(group):
            if writer is None:
                writer = csv.DictWriter(text, list(record), lineterminator="\n")
                writer.writeheader()
            writer.writerow(record)
    return text.getvalue().rstrip("\n")


def _json(board: Board) -> str:
    groups = [
        {**_facts(group), "rows": [_json_row(row) for row in group.rows]} for group in board.groups
    ]
    return json.dumps({"groups": groups, "left_out": list(board.left_out)}, indent=2)


FORMS: dict[str, Callable[[Board], str]] = {
    "table": _table, "markdown": _markdown, "csv": _csv, "json": _json,
}  # fmt: skip


def _title(group: Group) -> str:
    folds = (
        "fold " + ", ".join(map(str, group.folds))
        if len(group.folds) == 1
        else f"folds {', '.join(map(str, group.folds))} pooled"
    )
    return f"{group.data}: protocol {group.protocol}, {folds}"


def _subtitle(group: Group) -> str:
    return (
        f"{group.test_images} test images ({group.test_defects} defective); "
        f"split {group.split_hash}; data {group.fingerprint[:8]}; {group.hardware}"
    )


def _names(group: Group) -> list[str]:
    """Name the rows; where several have one name, say what tells them apart."""
    entries = [row.entry for row in group.rows]
    seeded = [(row.entry, row.seed) for row in group.rows]
    names = []
    for row in group.rows:
        if entries.count(row.entry) == 1:
            names.append(row.entry)
        elif seeded.count((row.entry, row.seed)) == 1:
            names.append(f"{row.entry}, seed {row.seed}")
        else:
            names.append(f"{row.entry}, {row.method}/{row.runs[0].name}")
    return names


def _cells(name: str, row: Row) -> list[str]:
    v = row.values
    return [
        name,
        _with_interval(v["auroc"], row.intervals.get("auroc")),
        _number(v["ap"]),
        _number(v["f1"]),
        _number(v["accuracy"]),
        _number(v["map50"]),
        _number(v["mask_iou"]),
        _number(v["pixel_auroc"]),
        _number(v["aupro"]),
        row.labels,
        row.weights,
        f"{row.fit_seconds:.0f}",
        "-" if row.ms_per_image is None else f"{row.ms_per_image:.0f}",
    ]


def _number(value: Value) -> str:
    return "-" if isinstance(value, Undefined) else f"{value:.3f}"


def _with_interval(value: Value, interval: Any) -> str:
    if isinstance(value, Undefined) or not isinstance(interval, Mapping) or "low" not in interval:
        return _number(value)
    return f"{value:.3f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def _notes(group: Group) -> list[str]:
    notes = []
    for name, row in zip(_names(group), group.rows, strict=True):
        source = f" ({row.weights_source})" if row.weights_source else ""
        notes.append(f"{name}: score = {row.scoring}; weights {row.weights}{source}")
        notes += [f"{name}: {line}" for line in prompted_lines(row.prompted)]
    return notes


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


def _facts(group: Group) -> dict[str, Any]:
    record = dataclasses.asdict(group)
    del record["rows"]
    return {**record, "folds": list(group.folds)}


def _records(group: Group) -> Sequence[dict[str, Any]]:
    return [
        {
            "data": group.data,
            "protocol": group.protocol,
            "split": group.split_hash,
            "fingerprint": group.fingerprint,
            "folds": " ".join(map(str, group.folds)),
            "test_images": group.test_images,
            "method": row.entry,
            "seed": row.seed,
            **{k: "" if isinstance(v, Undefined) else v for k, v in row.values.items()},
            "labels": row.labels,
            "weights": row.weights,
            "weights_source": row.weights_source,
            "scoring": row.scoring,
            "fit_seconds": row.fit_seconds,
            "ms_per_image": row.ms_per_image,
        }
        for row in group.rows
    ]


def _json_row(row: Row) -> dict[str, Any]:
    from toolkit.metrics.values import to_json

    return {
        "entry": row.entry,
        "method": row.method,
        "seed": row.seed,
        "values": to_json(dict(row.values)),
        "labels": row.labels,
        "weights": row.weights,
        "weights_source": row.weights_source,
        "scoring": row.scoring,
        "fit_seconds": row.fit_seconds,
        "ms_per_image": row.ms_per_image,
        "intervals": row.intervals,
        "prompted": row.prompted,
        "runs": [str(path) for path in row.runs],
    }
