"""The overview of several categories as a terminal table, Markdown, CSV, JSON or HTML."""

from __future__ import annotations

import csv as csv_module
import html as html_module
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.errors import printable
from toolkit.leaderboards import render
from toolkit.leaderboards.columns import column
from toolkit.leaderboards.format import METHOD, TOP, number
from toolkit.leaderboards.model import Group
from toolkit.leaderboards.overview import Overview
from toolkit.metrics.values import Undefined, Value, to_json

LEGEND = (
    f"{TOP}: not significantly different from the best of its column (paired stratified bootstrap "
    "on the same images; not corrected for the number of methods). In brackets: the 95 % "
    "interval of the mean, images resampled within each category. wins: categories in which a "
    "method is significantly better than all others; ties: those in which it shares the first "
    "place. rank: mean of the ranks. Each category's own table: --by-category."
)


TOP_NOTE = (
    f"\\{TOP} not significantly different from the best of its column; in brackets the 95 % "
    "interval of the mean"
)


def title(overview: Overview) -> str:
    """Return the column, the number of categories, the protocol and the folds."""
    first = overview.groups[0]
    return (
        f"{column(overview.sort).heading} on {len(overview.groups)} categories: protocol "
        f"{first.protocol}, {first.tested}"
    )


def headings(overview: Overview) -> list[str]:
    """Return the headings of the columns."""
    return [METHOD, *map(printable, overview.categories), "mean", "wins", "ties", "rank"]


def cells(overview: Overview) -> list[list[str]]:
    """Return the rows, as many cells as there are headings."""
    digits = column(overview.sort).digits
    made = []
    for row in overview.displayed:
        values = [
            f"{number(row.values[name], digits=digits)}{TOP if name in row.top else ''}"
            for name in overview.categories
        ]
        mean = f"{number(row.mean, digits=digits)}{TOP if row.in_top_group else ''}"
        if row.low is not None and row.high is not None:
            mean += f" [{row.low:.{digits}f}, {row.high:.{digits}f}]"
        rank = number(row.mean_rank, digits=1)
        made.append([printable(row.name), *values, mean, str(row.wins), str(row.ties), rank])
    return made


def published_cells(overview: Overview) -> list[list[str]]:
    """Return the rows of published results."""
    digits = column(overview.sort).digits
    return [
        [
            printable(row.name),
            *(number(row.values[name], digits=digits) for name in overview.categories),
            number(row.mean, digits=digits),
            *[""] * 3,
        ]
        for row in overview.published
    ]


def notes(overview: Overview) -> list[str]:
    """Return why a row has no mean, and the sources of published rows."""
    lines = [
        f"{row.name}: no mean ({row.mean.reason})"
        for row in overview.displayed
        if isinstance(row.mean, Undefined)
    ]
    empty = [row.name for row in overview.rows if row not in overview.displayed]
    if empty:
        lines.append(f"no value in any category: {', '.join(empty)}")
    lines += [
        f"{row.name}: published, not measured here ({'; '.join(row.sources)})"
        for row in overview.published
    ]
    lines += [f"{g.data}: warning: {line}" for g in overview.groups for line in g.warnings]
    return [printable(line) for line in lines]


def table(overviews: Sequence[Overview], others: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return the overviews, then the groups that are in none, for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    lines = []
    for overview in overviews:
        made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
        for name in headings(overview):
            made.add_column(
                name, justify="left" if name == METHOD else "right", no_wrap=True, overflow="fold"
            )
        for cells_ in cells(overview):
            made.add_row(*cells_)
        for cells_ in published_cells(overview):
            made.add_row(*cells_, style="italic bright_black")
        # Numbers are never cut: a table of many categories is wider than the terminal.
        console = Console(
            file=io.StringIO(), width=1000, highlight=False, markup=False, emoji=False
        )
        console.print(made)
        assert isinstance(console.file, io.StringIO)
        lines += ["", title(overview)]
        lines += [line.rstrip() for line in console.file.getvalue().splitlines()]
        lines += notes(overview)
    lines += ["", textwrap.fill(LEGEND, render.WIDTH)]
    if others:
        return "\n".join([*lines, render.table(others, left_out)])
    return "\n".join([*lines, *(f"left out: {line}" for line in left_out)])


def markdown(
    overviews: Sequence[Overview], others: Sequence[Group], left_out: Sequence[str]
) -> str:
    """Return the overviews, then the groups that are in none, in Markdown."""
    escape = render.escape_markdown
    lines = []
    for overview in overviews:
        lines += [f"### {escape(title(overview))}", "", *_markdown_table(overview)]
        lines += ["", *(f"- {escape(line)}" for line in notes(overview)), ""]
    lines += [escape(LEGEND)]
    if others:
        return "\n".join([*lines, "", render.markdown(others, left_out)])
    return "\n".join([*lines, *(f"- left out: {escape(line)}" for line in left_out)])


def short_markdown(overviews: Sequence[Overview], others: Sequence[Group]) -> str:
    """Return the overviews, then the groups that are in none, without notes and legend."""
    lines = []
    for overview in overviews:
        heading = f"**{render.escape_markdown(title(overview))}**"
        lines += [heading, "", *_markdown_table(overview), "", TOP_NOTE, ""]
    return "\n".join([*lines, render.short_markdown(others)]).rstrip()


def _markdown_table(overview: Overview) -> list[str]:
    heads = headings(overview)
    escape = render.escape_markdown
    lines = [f"| {' | '.join(map(escape, heads))} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(map(escape, row))} |" for row in cells(overview)]
    for row in published_cells(overview):
        lines.append(f"| {' | '.join(f'*{escape(text)}*' if text else '' for text in row)} |")
    return lines


def csv(overviews: Sequence[Overview], others: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return one line per method; groups that are in no overview have no place here."""
    records: list[dict[str, Any]] = []
    for overview in overviews:
        shared = {
            "protocol": overview.groups[0].protocol,
            "folds": " ".join(map(str, overview.groups[0].folds)),
            "column": overview.sort,
        }
        for row in overview.rows:
            records.append(
                {
                    **shared,
                    METHOD: row.name,
                    **{name: _plain(value) for name, value in row.values.items()},
                    "mean": _plain(row.mean),
                    "low": "" if row.low is None else row.low,
                    "high": "" if row.high is None else row.high,
                    "in_top_group": row.in_top_group,
                    "wins": row.wins,
                    "ties": row.ties,
                    "mean_rank": _plain(row.mean_rank),
                    "source": "measured here",
                }
            )
        for one in overview.published:
            values = {name: _plain(value) for name, value in one.values.items()}
            source = f"published: {'; '.join(one.sources)}"
            records.append(
                {**shared, METHOD: one.name, **values, "mean": _plain(one.mean), "source": source}
            )
    text = io.StringIO()
    fields = dict.fromkeys(name for record in records for name in record)
    writer = csv_module.DictWriter(text, list(fields), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: render.csv_cell(v) for k, v in record.items()} for record in records)
    return text.getvalue().rstrip("\n")


def as_dict(overview: Overview) -> dict[str, Any]:
    """Return an overview as JSON values; the groups of its categories are not repeated."""
    plain: dict[str, Any] = to_json(
        {
            "categories": list(overview.categories),
            "protocol": overview.groups[0].protocol,
            "folds": list(overview.groups[0].folds),
            "sort": overview.sort,
            "rows": [vars(row) for row in overview.rows],
            "published": [vars(row) for row in overview.published],
        }
    )
    return plain


def html(overviews: Sequence[Overview], others: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return a page that needs no other file: the overviews, then groups that are in none."""
    parts = []
    escape = html_module.escape
    for overview in overviews:
        head = "".join(
            f'<th scope="col"{_aligned(i)}>{escape(text)}</th>'
            for i, text in enumerate(headings(overview))
        )
        body = [f"<tr>{_tds(row)}</tr>" for row in cells(overview)]
        body += [f'<tr class="published">{_tds(row)}</tr>' for row in published_cells(overview)]
        items = "".join(f"<li>{escape(line)}</li>" for line in notes(overview))
        parts.append(
            f'<section>\n<h2>{escape(title(overview))}</h2>\n<div class="scroll"><table>\n<thead>'
            f"<tr>{head}</tr></thead>\n<tbody>\n{chr(10).join(body)}\n</tbody>\n</table></div>\n"
            f'<ul class="small">{items}</ul>\n<p class="small">{escape(LEGEND)}</p>\n</section>'
        )
    page = render.html(others, left_out)
    mark = "<h1>Leaderboard</h1>\n"
    return page.replace(mark, f"{mark}{chr(10).join(parts)}\n", 1)


def _tds(row: Sequence[str]) -> str:
    return "".join(
        f"<td{_aligned(i)}>{html_module.escape(text)}</td>" for i, text in enumerate(row)
    )


def _aligned(index: int) -> str:
    return ' class="n"' if index else ""


def _plain(value: Value) -> float | str:
    return "" if isinstance(value, Undefined) else value


FORMATS: Mapping[str, Callable[[Sequence[Overview], Sequence[Group], Sequence[str]], str]] = {
    "table": table,
    "markdown": markdown,
    "csv": csv,
    "html": html,
}
