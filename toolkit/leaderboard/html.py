"""The leaderboard as one small page that opens without a network."""

from __future__ import annotations

from toolkit.leaderboard.format import (
    board_legend,
    cells,
    headings,
    is_numeric,
    notes,
    reference_cells,
    reference_notes,
    subtitle,
    title,
)
from toolkit.leaderboard.model import Board, Group


def html_page(board: Board) -> str:
    """Return the page; it needs no other file, and works in light and dark."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(
        groups=[_group(group) for group in board.groups],
        left_out=board.left_out,
        legend=board_legend(board),
    )


def _group(group: Group) -> dict[str, object]:
    numeric = [True, False, *(is_numeric(name) for name in group.columns)]
    ours = [cells(group, place) for place in range(len(group.rows))]
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
