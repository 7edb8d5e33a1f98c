"""The page: tables, plots and images in one HTML file that needs no other file.

Names, paths and classes are untrusted text. Jinja escapes them in the markup; scripts read them
from JSON that cannot close a tag, and only ever set them as text. The page's content security
policy allows no script but its own, by their hashes, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import __version__
from toolkit.data.types import GOOD
from toolkit.errors import MissingExtraError
from toolkit.leaderboards import overview_render
from toolkit.leaderboards.columns import column
from toolkit.leaderboards.format import legend, notes, title
from toolkit.reporting import charts, tables
from toolkit.reporting.images import heat_gradient
from toolkit.reporting.pareto import pareto_charts

if TYPE_CHECKING:
    from toolkit.leaderboards.overview import Overview
    from toolkit.reporting.collect import GroupResults

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("page.js", "charts.js", "viewer.js", "gallery.js")
# The bundle defines no other global name.
_VEGA_ENTRY = "window.vegaEmbed = vegaEmbed;"


def render_page(
    groups: Sequence[GroupResults],
    *,
    pro: Sequence[Mapping[str, charts.Points | None]],
    images: Sequence[Mapping[str, Any]],
    image_index: Mapping[tuple[str, str], int],
    overviews: Sequence[Overview] = (),
    messages: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> str:
    """Return the HTML of the page.

    Args:
        groups: groups of the leaderboard.
        pro: for each group the points of the PRO curves, by method.
        images: test images as JSON values.
        image_index: index into `images` by (fingerprint of the data, sample id).
        overviews: tables over several data sets, at the top.
        messages: remarks to display at the top.
        left_out: one line for each run that is left out.

    Raises:
        MissingExtraError: the plotting library is not installed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    drawn: dict[str, charts.Chart] = {}
    sections = [
        _section(number, group, curves, drawn)
        for number, (group, curves) in enumerate(zip(groups, pro, strict=True), start=1)
    ]
    gallery = {"images": images, "groups": [_gallery(group, image_index) for group in groups]}
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    scripts = [vega_script(), f'(function () {{\n"use strict";\n{script}\n}})();']
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    return environment.get_template("report.html.j2").render(
        sections=sections,
        overviews=[
            {
                "title": overview_render.title(one),
                "headings": overview_render.headings(one),
                "rows": tables.overview_rows(one),
                "notes": overview_render.notes(one),
            }
            for one in overviews
        ],
        overview_legend=overview_render.LEGEND.rpartition(" Each category")[0],
        messages=messages,
        left_out=left_out,
        version=__version__,
        names=list(dict.fromkeys(group.board.data for group in groups)),
        css=Markup(_asset("report.css")),
        scripts=[Markup(text) for text in scripts],
        script_hashes=Markup(" ".join(map(_csp_hash, scripts))),
        charts_json=Markup(script_json(printable(drawn))),
        gallery_json=Markup(script_json(printable(gallery))),
        gradient=Markup(heat_gradient()),
    )


def printable(value: Any) -> Any:
    r"""Replace control characters in all strings of a value by escapes such as `\x1b`.

    Line breaks, terminal escapes and marks that change the direction of text are control
    characters here: everything that `str.isprintable` rejects.
    """
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in value
        )
    if isinstance(value, Mapping):
        return {printable(key): printable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [printable(one) for one in value]
    return value


def script_json(value: Any) -> str:
    """Return JSON for the inside of a `<script>`: no tag, comment or entity can begin in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def vega_script() -> str:
    """Return Vega-Lite and its dependencies as one script.

    Raises:
        MissingExtraError: the package that carries it is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtraError(
            "vl-convert-python", extra="report", purpose="draw the plots of a report"
        ) from error
    bundle: str = vl_convert.javascript_bundle(_VEGA_ENTRY)
    # A closing tag within its strings would end the script.
    safe = bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f'(function () {{"use strict";\n{safe}\n}})();'


def _section(
    number: int,
    group: GroupResults,
    pro: Mapping[str, charts.Points | None],
    drawn: dict[str, charts.Chart],
) -> dict[str, Any]:
    """Return the values of one section of the template; its charts are added to `drawn`."""

    def add(key: str, chart: charts.Chart | None) -> str:
        if chart is None:
            return ""
        drawn[f"g{number}-{key}"] = chart
        return f"g{number}-{key}"

    methods, board = group.methods, group.board
    columns = tables.leaderboard_columns(board)
    results = {m.name: tables.results_by_type(m) for m in methods}
    learning = {
        m.name: [(kind, add(f"m{i}-{kind}", one)) for kind, one in charts.learning_charts(m.runs)]
        for i, m in enumerate(methods)
    }
    return {
        "number": number,
        "board": board,
        "title": title(board),
        "columns": columns,
        "more": tables.more_columns(board),
        "ranks": tables.ranks(board),
        "ranked_by": column(board.sort).heading,
        "scale": tables.interval_scale(columns),
        "several_seeds": any(len(row.seeds) > 1 for row in board.rows),
        "legend": legend(
            board.columns,
            sort=column(board.sort).heading,
            spread=any(row.spread for row in board.rows),
        ),
        "notes": notes(board),
        "methods": methods,
        "confusions": [c for m in methods if (c := tables.decision_confusion(m)) is not None],
        "class_confusions": [c for m in methods if (c := tables.class_confusion(m)) is not None],
        "types": list(results[methods[0].name]),
        "results": results,
        "roc": add("roc", charts.roc_chart(methods)),
        "pro": add("pro", charts.pro_chart(pro)),
        "scores": {
            m.name: add(f"m{i}-scores", charts.score_chart(m)) for i, m in enumerate(methods)
        },
        "pareto": {
            column(name).heading: add(f"pareto-{name}", chart)
            for name, chart in pareto_charts(methods).items()
        },
        "budget": {
            column(name).heading: add(f"budget-{name}", chart)
            for name, chart in charts.budget_charts(methods).items()
        },
        "learning": {name: found for name, found in learning.items() if found},
    }


def _gallery(group: GroupResults, image_index: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    ranges = {
        m.name: [list(one.heat_range) for one in m.runs if one.heat_range] for m in group.methods
    }
    return {
        "methods": [{"name": m.name, "heat_ranges": ranges[m.name]} for m in group.methods],
        "items": [
            {
                "id": sample_id,
                "type": label,
                "defect": label != GOOD,
                "image": image_index[group.board.fingerprint, sample_id],
                "predictions": [m.predictions[sample_id] for m in group.methods],
            }
            for sample_id, label in sorted(group.methods[0].labels.items())
        ],
    }


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
