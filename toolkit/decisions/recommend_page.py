"""A recommendation as text for the terminal, and as one HTML page."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from toolkit.decisions.page import percent
from toolkit.leaderboards.columns import column
from toolkit.leaderboards.format import number

if TYPE_CHECKING:
    from toolkit.decisions.recommend import Candidate, Recommendation


def recommendation_text(found: Recommendation) -> str:
    """Return the answer with its reasons, and a Markdown table of all methods."""
    rows = [headings(found), *(cells(found, one) for one in found.candidates)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join([*reasons(found), "", *table])


def reasons(found: Recommendation) -> list[str]:
    """Return what is recommended and why, one sentence per line; the first one is the answer."""
    chosen, best = found.chosen, found.best
    if chosen is None or best is None:
        return ["no method meets all needs; the table says what each of them lacks"]
    lines = [f"{found.data}: use {chosen.name}"]
    heading = column(found.needs.figure).heading
    lines.append(
        f"{heading} {number(chosen.val)} on the {found.val_images} validation images that chose "
        f"it, {number(chosen.test)} on the {found.test_images} test images"
    )
    if chosen is best:
        lines.append("no method that meets the needs is better on validation")
    else:
        lines.append(
            f"{best.name} is better by {_difference(found, best, chosen, 'val')} on validation, "
            f"which is not significant, and costs more ({_cost(best)}; {chosen.name}: "
            f"{_cost(chosen)})"
        )
    allowed = [one for one in found.candidates if not one.refused and one is not chosen]
    for one in allowed:
        difference = found.difference(chosen, one, part="val")
        if difference is None or difference.significant or one is best:
            continue
        if difference.value > found.needs.tolerance:
            lines.append(
                f"{one.name} is worse by {_difference(found, chosen, one, 'val')}: not "
                "significant, so these images do not settle it"
            )
    lines += _decision_lines(found, chosen)
    if found.folds > 1:
        lines.append(
            f"each image validates one fold's model and tests another's: with {found.folds} folds "
            "the test figures are not wholly independent of the choice"
        )
    return lines


def headings(found: Recommendation) -> list[str]:
    """Return the headings of the table."""
    heading = column(found.needs.figure).heading
    return [
        "method",
        f"{heading}, validation",
        f"{heading}, test",
        "escapes",
        "overkill",
        "ms",
        "MB",
        "labels",
        "fit s",
        "why not",
    ]


def cells(found: Recommendation, one: Candidate) -> list[str]:
    """Return the cells of one method."""
    tested = one.tested
    wrong = ["-", "-"]
    if tested is not None:
        (low_e, high_e), (low_o, high_o) = tested.intervals()
        wrong = [
            f"{tested.escapes} of {tested.n_defect} ({100 * low_e:.0f}–{100 * high_e:.0f} %)",
            f"{tested.overkill} of {tested.n_good} ({100 * low_o:.0f}–{100 * high_o:.0f} %)",
        ]
    return [
        f"**{one.name}**" if one is found.chosen else one.name,
        number(one.val),
        number(one.test),
        *wrong,
        number(one.latency, digits=0),
        number(one.memory, digits=0),
        _labels(one),
        number(one.fit_seconds, digits=0),
        "; ".join(one.refused),
    ]


def recommendation_page(found: Recommendation) -> str:
    """Return the recommendation as an HTML page."""
    first, *lines = reasons(found)
    asked = found.needs
    limits = [
        ("outputs", ", ".join(asked.outputs) or "OK or NOK alone"),
        ("latency", "any" if asked.max_latency is None else f"at most {asked.max_latency:g} ms"),
        ("memory", "any" if asked.max_memory is None else f"at most {asked.max_memory:g} MB"),
        ("labels", "any" if asked.max_labels is None else f"at most {asked.max_labels}"),
        ("false alarms", f"at most {percent(asked.max_false_alarms)}"),
    ]
    parts = [f"<h1>{html.escape(first)}</h1><ul>"]
    parts += [f"<li>{html.escape(line)}</li>" for line in lines]
    parts += ["</ul><h2>Needs</h2><ul>"]
    parts += [f"<li>{name}: {html.escape(text)}</li>" for name, text in limits]
    parts += ["</ul><h2>All methods</h2><table><tr>"]
    parts += [f"<th>{html.escape(head)}</th>" for head in headings(found)]
    parts.append("</tr>")
    for one in found.candidates:
        mark = ' class="chosen"' if one is found.chosen else ' class="no"' if one.refused else ""
        listed = "".join(f"<td>{html.escape(c.strip('*'))}</td>" for c in cells(found, one))
        parts.append(f"<tr{mark}>{listed}</tr>")
    parts.append(
        "</table><p>Escapes and overkill: on the test images, at a threshold from the good "
        "validation images; in brackets the 95 % interval of Clopper and Pearson. ms: median from "
        "file to prediction. MB: peak of training and prediction. labels: training defects.</p>"
    )
    return _PAGE.format(title=html.escape(first), body="\n".join(parts))


def _decision_lines(found: Recommendation, chosen: Candidate) -> list[str]:
    tested = chosen.tested
    if tested is None:
        return [
            "its validation parts hold fewer than two good images: calibrate it with images that "
            "were held back (toolkit calibrate)"
        ]
    weakest = tested.weakest
    line = (
        f"at its calibrated threshold {tested.escapes} of {tested.n_defect} defective test images "
        f"escape and {tested.overkill} of {tested.n_good} good ones are flagged"
    )
    if weakest.holds_request:
        return [line]
    return [
        line,
        f"{weakest.n_good} good validation images promise at most "
        f"{percent(weakest.promised_false_alarms)} false alarms at {percent(weakest.confidence)} "
        f"confidence; {percent(weakest.max_false_alarms)} takes {weakest.n_needed}: calibrate the "
        "chosen run with images that were held back (toolkit calibrate)",
    ]


def _difference(found: Recommendation, first: Candidate, second: Candidate, part: str) -> str:
    one = found.difference(first, second, part=part)
    if one is None:
        return "an amount that cannot be tested"
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _cost(one: Candidate) -> str:
    return f"{_labels(one)} labels, {number(one.latency, digits=0)} ms"


def _labels(one: Candidate) -> str:
    count, kind = one.labels
    return "0" if kind == "none" else f"{count} {kind}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 14px; }}
th, td {{ text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; }}
.chosen {{ background: #e8f5e9; font-weight: 600; }} .no {{ color: #777; }}
</style></head><body>
{body}
</body></html>
"""
