"""The leaderboard as a terminal table, Markdown, CSV, JSON or HTML."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.errors import ConfigError, did_you_mean
from toolkit.leaderboard.format import (
    METHOD,
    RANK,
    board_legend,
    cells,
    headings,
    is_numeric,
    notes,
    reference_cells,
    reference_name,
    reference_notes,
    subtitle,
    title,
)
from toolkit.leaderboard.html import html_page
from toolkit.leaderboard.model import Board, Group, Row
from toolkit.metrics.values import Undefined, to_json

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 118


def render(board: Board, form: str) -> str:
    """Return the leaderboard as text.

    Args:
        board: what to show.
        form: `table`, `markdown`, `csv`, `json` or `html`.

    Raises:
        ConfigError: another form.
    """
    check_form(form)
    return FORMS[form](board)


def check_form(form: str) -> None:
    """Insist on a known form, before anything is computed.

    Raises:
        ConfigError: another form.
    """
    if form not in FORMS:
        raise ConfigError(f"--format {form}: unknown{did_you_mean(form, FORMS)}")


def _table(board: Board) -> str:
    from rich.console import Console

    tables = [_rich_table(group) for group in board.groups]
    # Figures are never cut: a table of many columns is wider than the usual.
    widths = [max(WIDTH, sum((it.min_width or 0) + 2 for it in table.columns)) for table in tables]
    # No markup: brackets in the name of a run or a folder are part of it.
    console = Console(
        file=io.StringIO(), width=max(widths, default=WIDTH), highlight=False, markup=False,
        emoji=False, force_terminal=sys.stdout.isatty(),
    )  # fmt: skip
    for group, table, width in zip(board.groups, tables, widths, strict=True):
        console.print(f"\n{title(group)}\n{subtitle(group)}", soft_wrap=True)
        console.print(table, width=width)
        for line in [*notes(group), *reference_notes(group)]:
            console.print(line, soft_wrap=True)
    for line in board.left_out:
        console.print(f"left out: {line}", soft_wrap=True)
    console.print(f"\n{textwrap.fill(board_legend(board), WIDTH)}", soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _rich_table(group: Group) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    ours = [cells(group, place) for place in range(len(group.rows))]
    theirs = [reference_cells(group, reference) for reference in group.references]
    heads = headings(group)
    for place, (name, heading) in enumerate(
        zip([RANK, METHOD, *group.columns], heads, strict=True)
    ):
        widest = max(len(shown[place]) for shown in [heads, *ours, *theirs])
        # Long names of methods wrap; names of weights are cut, since the notes spell them out.
        limit = {METHOD: 13, "weights": 11}.get(name, widest)
        table.add_column(
            heading,
            justify="right" if name != METHOD and is_numeric(name) else "left",
            no_wrap=name != METHOD,
            overflow="fold" if name == METHOD else "ellipsis",
            min_width=min(limit, widest),
            max_width=11 if name == "weights" else None,
        )
    for shown in ours:
        table.add_row(*shown)
    for shown in theirs:
        table.add_row(*shown, style="italic bright_black")
    return table


def render_short(board: Board) -> str:
    """Return the leaderboard in Markdown without notes and legend."""
    lines = []
    for group in board.groups:
        lines += [f"**{title(group)}**: {subtitle(group)}", "", *_markdown_table(group), ""]
    return "\n".join(lines).rstrip()


def _markdown(board: Board) -> str:
    lines = []
    for group in board.groups:
        lines += [f"### {title(group)}", "", subtitle(group), "", *_markdown_table(group)]
        lines += ["", *(f"- {line}" for line in [*notes(group), *reference_notes(group)]), ""]
    lines += [f"- left out: {line}" for line in board.left_out]
    return "\n".join([*lines, board_legend(board)])


def _markdown_table(group: Group) -> list[str]:
    lines = [_markdown_row(headings(group)), "|---" * len(headings(group)) + "|"]
    lines += [_markdown_row(cells(group, place)) for place in range(len(group.rows))]
    for reference in group.references:
        shown = [f"*{cell}*" if cell else "" for cell in reference_cells(group, reference)]
        lines.append(_markdown_row(shown))
    return lines


def _markdown_row(shown: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in shown) + " |"


def _csv(board: Board) -> str:
    records = [record for group in board.groups for record in _records(group)]
    # Groups may show other columns.
    names = dict.fromkeys(name for record in records for name in record)
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return text.getvalue().rstrip("\n")


def _json(board: Board) -> str:
    groups = [_json_group(group) for group in board.groups]
    return json.dumps(
        {"groups": groups, "left_out": list(board.left_out)}, indent=2, allow_nan=False
    )


FORMS: dict[str, Callable[[Board], str]] = {
    "table": _table, "markdown": _markdown, "csv": _csv, "json": _json, "html": html_page,
}  # fmt: skip


def _records(group: Group) -> Sequence[dict[str, Any]]:
    shared = {
        "data": group.data,
        "protocol": group.protocol,
        "split": group.split_hash,
        "fingerprint": group.fingerprint,
        "folds": " ".join(map(str, group.folds)),
        "test_images": group.test_images,
    }
    ours = [
        {
            **shared,
            "rank": "" if row.rank is None else row.rank,
            "method": row.entry,
            "seed": " ".join(map(str, row.seeds or (row.seed,))),
            **{k: "" if isinstance(v, Undefined) else v for k, v in row.values.items()},
            **{f"{name}_std": value for name, value in row.spread.items()},
            "labels": row.labels,
            "weights": row.weights,
            "weights_source": row.weights_source,
            "prompts_source": row.prompts_source,
            "score_description": row.scoring,
            "published": "" if row.published is None else row.published["value"],
            "source": "measured here",
            "fit_seconds": row.fit_seconds,
            "ms_per_image": row.ms_per_image,
        }
        for row in group.rows
    ]
    theirs = [
        {
            "data": one.data,
            "method": reference_name(group, one),
            **one.values,
            "source": f"published: {one.source}",
        }
        for one in group.references
    ]
    return [*ours, *theirs]


def _json_group(group: Group) -> dict[str, Any]:
    record = dataclasses.asdict(group)
    return {
        **record,
        "folds": list(group.folds),
        "columns": list(group.columns),
        "rows": [_json_row(row) for row in group.rows],
        "differences": [
            {
                "first": group.names[one.first],
                "second": group.names[one.second],
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "real": one.real,
            }
            for one in group.differences
        ],
        "references": [dataclasses.asdict(one) for one in group.references],
    }


def _json_row(row: Row) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "entry": row.entry,
        "method": row.method,
        "seed": row.seed,
        "seeds": list(row.seeds or (row.seed,)),
        "values": {name: to_json(value) for name, value in row.values.items()},
        "spread": dict(row.spread),
        "labels": row.labels,
        "weights": row.weights,
        "weights_source": row.weights_source,
        "score_description": row.scoring,
        "fit_seconds": row.fit_seconds,
        "ms_per_image": row.ms_per_image,
        "intervals": row.intervals,
        "published": row.published,
        "prompted": row.prompted,
        "prompts_source": row.prompts_source,
        "forgetting": row.forgetting,
        "runs": [str(path) for path in row.runs],
    }
