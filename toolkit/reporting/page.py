"""The page: collected values, plots and pictures in one file that needs nothing beside it.

Names, paths and classes are others' text. Jinja escapes what stands in the markup; what the
scripts read is JSON in which no tag can be closed, and they only ever set it as text. The page's
own policy forbids every connection, so nothing can be fetched even by mistake.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import __version__
from toolkit.errors import MissingExtraError
from toolkit.leaderboard.columns import column
from toolkit.leaderboard.format import legend, notes, title
from toolkit.reporting import charts, tables
from toolkit.reporting.budget import budget_charts
from toolkit.reporting.pictures import heat_gradient

if TYPE_CHECKING:
    from toolkit.reporting.collect import ShownGroup
    from toolkit.reporting.gallery import Answers

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("page.js", "charts.js", "viewer.js", "gallery.js")
# Only this name is exported: the bundle leaves nothing else behind in the page.
_VEGA_ENTRY = "window.vegaEmbed = vegaEmbed;"


@dataclass(frozen=True)
class Section:
    """One group of the leaderboard as the template shows it."""

    number: int
    facts: Any
    title: str
    columns: Sequence[tables.BoardColumn]
    more: Sequence[tables.BoardColumn]
    several_seeds: bool
    legend: str
    notes: Sequence[str]
    scale: tuple[float, float]
    methods: Sequence[Any]
    confusions: Sequence[tables.Confusion]
    class_confusions: Sequence[tables.Confusion]
    types: Sequence[str]
    found: Mapping[str, Mapping[str, tables.Found]]
    roc: str
    pro: str
    scores: Mapping[str, str]
    budget: Mapping[str, str]
    learning: Mapping[str, Sequence[tuple[str, str]]]


@dataclass
class _Book:
    """Charts by the id of the element they are drawn in."""

    drawn: dict[str, charts.Chart]

    def add(self, key: str, chart: charts.Chart | None) -> str:
        if chart is None:
            return ""
        self.drawn[key] = chart
        return key


def render_page(
    groups: Sequence[ShownGroup],
    *,
    answers: Sequence[Mapping[str, Answers]],
    images: Mapping[str, Mapping[str, Any]],
    left_out: Sequence[str],
) -> str:
    """Return the whole page.

    Args:
        groups: what is shown.
        answers: for each group, by name of the method, what was said of the images.
        images: by `image_key`, the test images.
        left_out: one line for each run that is not shown.

    Raises:
        MissingExtraError: the plotting library is not installed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    book = _Book({})
    sections = [
        _section(number, group, said, book)
        for number, (group, said) in enumerate(zip(groups, answers, strict=True), start=1)
    ]
    gallery = {
        "images": images,
        "groups": [_gallery(group, said) for group, said in zip(groups, answers, strict=True)],
    }
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        sections=sections,
        left_out=left_out,
        version=__version__,
        names=list(dict.fromkeys(group.metadata.data for group in groups)),
        css=_asset("report.css"),
        scripts="\n".join(_asset(name) for name in _SCRIPTS),
        vega=vega_script(),
        charts_json=script_json(book.drawn),
        gallery_json=script_json(gallery),
        gradient=heat_gradient(),
        pro_limit=charts.PRO_LIMIT,
    )


def script_json(value: Any) -> str:
    """Return JSON for the inside of a `<script>`: no tag, comment or entity can begin in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def vega_script() -> str:
    """Return Vega-Lite with all it needs as one script.

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
    # Its own names stay inside; in its strings a closing tag would end the script.
    safe = bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f'(function () {{"use strict";\n{safe}\n}})();'


def image_key(fingerprint: str, sample_id: str) -> str:
    """Name a test image: groups on the same data share their pictures."""
    return f"{fingerprint[:12]}/{sample_id}"


def _section(
    number: int, group: ShownGroup, answers: Mapping[str, Answers], book: _Book
) -> Section:
    methods, facts = group.methods, group.metadata
    columns = tables.leaderboard_columns(facts)
    keys = {m.name: f"g{number}m{i}" for i, m in enumerate(methods)}
    decisions = [tables.decision_confusion(m) for m in methods]
    classes = [tables.class_confusion(m) for m in methods]
    found = {m.name: tables.found_by_type(m) for m in methods}
    learning = {
        m.name: [
            (what, book.add(f"{keys[m.name]}-{what}", chart))
            for what, chart in charts.learning_charts([part.run for part in m.parts])
        ]
        for m in methods
    }
    return Section(
        number=number,
        facts=facts,
        title=title(facts),
        columns=columns,
        more=tables.more_columns(facts),
        several_seeds=any(len(row.seeds) > 1 for row in facts.rows),
        legend=legend(
            facts.columns,
            sort=column(facts.sort).heading,
            spread=any(r.spread for r in facts.rows),
        ),
        notes=notes(facts),
        scale=tables.interval_scale(columns),
        methods=methods,
        confusions=[c for c in decisions if c is not None],
        class_confusions=[c for c in classes if c is not None],
        types=list(found[methods[0].name]),
        found=found,
        roc=book.add(f"g{number}-roc", charts.roc_chart(methods)),
        pro=book.add(f"g{number}-pro", charts.pro_chart(methods, answers)),
        scores={m.name: book.add(f"{keys[m.name]}-scores", charts.score_chart(m)) for m in methods},
        budget={
            column(name).heading: book.add(f"g{number}-budget-{name}", drawn)
            for name, drawn in budget_charts(methods).items()
        },
        learning={name: shown for name, shown in learning.items() if shown},
    )


def _gallery(group: ShownGroup, answers: Mapping[str, Answers]) -> dict[str, Any]:
    return {
        "methods": [
            {"name": m.name, "heat": [list(r) for r in answers[m.name].heat_ranges]}
            for m in group.methods
        ],
        "items": [
            {
                "id": sample.id,
                "type": sample.label,
                "defect": sample.is_defect,
                "image": image_key(group.metadata.fingerprint, sample.id),
                "by": [answers[m.name].by_image[sample.id] for m in group.methods],
            }
            for sample in group.samples
        ],
    }


def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
