"""The leaderboard as a terminal table, Markdown, CSV, JSON or HTML.

Each format is a function of the groups and of the lines on runs that were left out.
"""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from toolkit.errors import printable
from toolkit.leaderboards.format import (
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
    top_group_note,
)
from toolkit.leaderboards.model import Group, Row
from toolkit.metrics.values import Undefined, to_json

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 118


def table(groups: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return the leaderboard for a terminal."""
    from rich.console import Console

    tables = [_rich_table(group) for group in groups]
    # Numbers are never cut: a table of many columns is wider than the usual.
    widths = [max(WIDTH, sum((it.min_width or 0) + 2 for it in one.columns)) for one in tables]
    # No markup: brackets in the name of a run or a folder are part of it.
    console = Console(
        file=io.StringIO(), width=max(widths, default=WIDTH), highlight=False, markup=False,
        emoji=False, force_terminal=sys.stdout.isatty(),
    )  # fmt: skip
    for group, one, width in zip(groups, tables, widths, strict=True):
        console.print(f"\n{title(group)}\n{subtitle(group)}", soft_wrap=True)
        console.print(one, width=width)
        for line in [*notes(group), *reference_notes(group)]:
            console.print(line, soft_wrap=True)
    for line in left_out:
        console.print(f"left out: {line}", soft_wrap=True)
    console.print(f"\n{textwrap.fill(board_legend(groups), WIDTH)}", soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _rich_table(group: Group) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    ours = [cells(group, index) for index in range(len(group.rows))]
    theirs = [reference_cells(group, reference) for reference in group.references]
    heads = [heading.replace(" ", "\n") for heading in headings(group)]
    for index, (name, heading) in enumerate(
        zip([RANK, METHOD, *group.columns], heads, strict=True)
    ):
        texts = [*heading.split("\n"), *(row[index] for row in [*ours, *theirs])]
        widest = max(map(len, texts))
        # Long names of methods wrap; names of weights are cut, since the notes have them in full.
        limit = {METHOD: 11, "weights": 11}.get(name, widest)
        made.add_column(
            heading,
            justify="right" if name != METHOD and is_numeric(name) else "left",
            no_wrap=name != METHOD,
            overflow="fold" if name == METHOD else "ellipsis",
            min_width=min(limit, widest),
            max_width=11 if name == "weights" else None,
        )
    for row in ours:
        made.add_row(*row)
    for row in theirs:
        made.add_row(*row, style="italic bright_black")
    return made


def markdown(groups: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return the leaderboard in Markdown; names cannot add markup or HTML."""
    lines = []
    for group in groups:
        lines += [f"### {escape_markdown(title(group))}", "", escape_markdown(subtitle(group)), ""]
        lines += [*_markdown_table(group), ""]
        lines += [
            *(f"- {escape_markdown(line)}" for line in [*notes(group), *reference_notes(group)]),
            "",
        ]
    lines += [f"- left out: {escape_markdown(line)}" for line in left_out]
    return "\n".join([*lines, escape_markdown(board_legend(groups))])


def short_markdown(groups: Sequence[Group]) -> str:
    """Return the leaderboard in Markdown without notes and legend."""
    lines = []
    for group in groups:
        heading = f"**{escape_markdown(title(group))}**: {escape_markdown(subtitle(group))}"
        lines += [heading, "", *_markdown_table(group), ""]
        lines += [line for text in top_group_note(group) for line in (escape_markdown(text), "")]
    return "\n".join(lines).rstrip()


def escape_markdown(text: str) -> str:
    """Return text that Markdown displays as it is: no HTML, emphasis, links, code or new lines."""
    text = " ".join(text.splitlines())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|])", r"\\\1", text).replace("](", "]\\(")


def _markdown_table(group: Group) -> list[str]:
    lines = [_markdown_row(headings(group)), "|---" * len(headings(group)) + "|"]
    lines += [_markdown_row(cells(group, index)) for index in range(len(group.rows))]
    for reference in group.references:
        lines.append(_markdown_row(reference_cells(group, reference), mark="*"))
    return lines


def _markdown_row(texts: Sequence[str], mark: str = "") -> str:
    escaped = [f"{mark}{escape_markdown(text)}{mark}" if text else "" for text in texts]
    return f"| {' | '.join(escaped)} |"


def csv(groups: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return one line per row; it has no place for runs that were left out."""
    records = [record for group in groups for record in _records(group)]
    # Groups may have different columns.
    names = dict.fromkeys(name for record in records for name in record)
    text = io.StringIO()
    if records:
        writer = csv_module.DictWriter(text, list(names), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: csv_cell(v) for k, v in record.items()} for record in records)
    return text.getvalue().rstrip("\n")


def csv_cell(value: Any) -> Any:
    """Return a value of CSV; a name that a spreadsheet would compute gets an apostrophe before it.

    Example:
        >>> csv_cell("=1+1"), csv_cell(-0.5)
        ("'=1+1", -0.5)
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    is_formula = len(text) > 1 and text.startswith(("=", "+", "-", "@"))
    return f"'{text}" if is_formula else text


def _records(group: Group) -> Sequence[dict[str, Any]]:
    shared = {
        "data": group.data,
        "protocol": group.protocol,
        "split": group.split_hash,
        "fingerprint": group.fingerprint,
        "folds": " ".join(map(str, group.folds)),
        "test_images": group.test_images,
        "sort": group.sort,
    }
    ours = [
        {
            **shared,
            "rank": "" if row.rank is None else row.rank,
            "in_top_group": row.in_top_group,
            "method": row.entry,
            "seed": " ".join(map(str, row.seeds)),
            **{k: "" if isinstance(v, Undefined) else v for k, v in row.values.items()},
            **{f"{name}_std": value for name, value in row.spread.items()},
            "labels": row.labels,
            "weights": row.weights,
            "weights_source": row.weights_source,
            "prompts_source": row.prompts_source,
            "score_description": row.score_description,
            "published": "" if row.published is None else row.published["value"],
            "source": "measured here",
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


def json(groups: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return the leaderboard as JSON."""
    return json_module.dumps(as_dict(groups, left_out), indent=2, allow_nan=False)


def as_dict(groups: Sequence[Group], left_out: Sequence[str]) -> dict[str, Any]:
    """Return the leaderboard as JSON values."""
    return {"groups": [_group_dict(group) for group in groups], "left_out": list(left_out)}


def _group_dict(group: Group) -> dict[str, Any]:
    record = {field.name: getattr(group, field.name) for field in fields(Group)}
    record["rows"] = [
        {
            **{field.name: getattr(row, field.name) for field in fields(Row)},
            "runs": [str(path) for path in row.runs],
        }
        for row in group.rows
    ]
    record["differences"] = [
        {
            "first": group.names[one.first],
            "second": group.names[one.second],
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "significant": one.significant,
        }
        for one in group.differences
    ]
    plain: dict[str, Any] = to_json(record)
    return plain


def html(groups: Sequence[Group], left_out: Sequence[str]) -> str:
    """Return a page that needs no other file and works in light and dark mode."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(
        groups=[_html_group(group) for group in groups],
        left_out=left_out,
        legend=board_legend(groups),
    )


def _html_group(group: Group) -> dict[str, object]:
    numeric = [True, False, *(is_numeric(name) for name in group.columns)]
    ours = [cells(group, index) for index in range(len(group.rows))]
    theirs = [reference_cells(group, one) for one in group.references]
    return {
        "title": title(group),
        "subtitle": subtitle(group),
        "headings": list(zip(headings(group), numeric, strict=True)),
        "rows": [list(zip(row, numeric, strict=True)) for row in ours],
        "references": [list(zip(row, numeric, strict=True)) for row in theirs],
        "notes": notes(group),
        "reference_notes": reference_notes(group),
    }


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leaderboard</title>
<style>
:root { color-scheme: light dark; --line: #8884; --grey: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --grey: #9a9a9a; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .75rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; }
.n { text-align: right; }
.published td, .small { color: var(--grey); }
.published td { font-style: italic; }
.small { font-size: .87rem; }
</style>
</head>
<body>
<h1>Leaderboard</h1>
{% for group in groups %}
<section>
<h2>{{ group.title }}</h2>
<div class="small">{{ group.subtitle }}</div>
<div class="scroll"><table>
<thead><tr>
{% for text, numeric in group.headings %}
<th scope="col"{% if numeric %} class="n"{% endif %}>{{ text }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in group.rows %}
<tr>{% for text, numeric in row %}<td{% if numeric %} class="n"{% endif %}>{{ text }}</td>\
{% endfor %}</tr>
{% endfor %}
{% for row in group.references %}
<tr class="published">{% for text, numeric in row %}<td{% if numeric %} class="n"{% endif %}>\
{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
<ul class="small">
{% for line in group.notes %}
<li>{{ line }}</li>
{% endfor %}
{% for line in group.reference_notes %}
<li><em>{{ line }}</em></li>
{% endfor %}
</ul>
</section>
{% endfor %}
{% for line in left_out %}
<p>left out: {{ line }}</p>
{% endfor %}
<p class="small">{{ legend }}</p>
</body>
</html>"""
