"""A calibration card as sentences, and as one HTML page with pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit.decisions.calibration import Threshold

if TYPE_CHECKING:
    from toolkit.decisions.calibrate import Calibration
    from toolkit.decisions.card import CalibrationCard
    from toolkit.inference.result import Result

_EDGE = 360


def card_lines(card: CalibrationCard) -> list[str]:
    """Return what a card says, one sentence per line."""
    return [
        f"{card.model['method']}/{card.model['name']}, calibrated on {card.nok.n_good} good images",
        *_cross_fit_lines(card),
        *_threshold_lines(card.nok, "NOK"),
        *(_threshold_lines(card.review, "REVIEW or NOK") if card.review is not None else ()),
        *_defect_lines(card),
        *_cost_lines(card),
        *_suspicious_lines(card),
    ]


def card_page(calibration: Calibration) -> str:
    """Return the card as an HTML page that holds its pictures."""
    card = calibration.card
    first, *lines = card_lines(card)
    parts = [f"<h1>{html.escape(first)}</h1>", "<ul>"]
    parts += [f"<li>{html.escape(line)}</li>" for line in lines]
    parts += ["</ul>", *_pictures("Good images of the highest scores", calibration.worst_good)]
    parts += _pictures("Defective images that escape", calibration.escaped)
    facts = [
        f"good images: {card.good['folder']}",
        *([f"defective images: {card.defects['folder']}"] if card.defects else []),
        f"made: {card.created}",
        f"model SHA-256: {card.model['sha256']}",
    ]
    parts += ["<p>" + "<br>".join(map(html.escape, facts)) + "</p>"]
    parts += [
        "<p>The promise holds for products like these good images, drawn independently of each "
        "other: the same camera, light and product, and not several pictures of one part.</p>"
    ]
    return _PAGE.format(title=html.escape(first), body="\n".join(parts))


def percent(share: float) -> str:
    """Return a share in per cent, with two digits that count.

    Example:
        >>> percent(0.01), percent(0.0498), percent(0.139), percent(0)
        ('1 %', '5 %', '14 %', '0 %')
    """
    return f"{share * 100:.2g} %" if share < 0.995 else f"{share * 100:.0f} %"


def _cross_fit_lines(card: CalibrationCard) -> Iterator[str]:
    if card.cross_fit:
        yield (
            f"the images are the run's own training and validation images: each training image "
            f"was scored by one of {card.cross_fit} models that lack it. The promise is therefore "
            "an estimate; only images that were held back (--good FOLDER) make it exact"
        )


def _threshold_lines(found: Threshold, name: str) -> Iterator[str]:
    yield (
        f"{name} from a score of {found.value:.6g}: at most {percent(found.promised_false_alarms)} "
        f"of good products, at {percent(found.confidence)} confidence "
        f"({found.n_flagged} of the {found.n_good})"
    )
    if not found.holds_request:
        yield (
            f"{percent(found.max_false_alarms)} cannot be promised with {found.n_good} good "
            f"images: it takes {found.n_needed}"
        )


def _defect_lines(card: CalibrationCard) -> Iterator[str]:
    defects = card.defects
    if not defects:
        return
    low, high = defects["interval"]
    reviews = f", {defects['reviews']} go to REVIEW" if card.review is not None else ""
    yield (
        f"escapes: {defects['escapes']} of {defects['images']} defective images "
        f"({percent(defects['escape_rate'])}; 95 % interval {percent(low)} to {percent(high)})"
        f"{reviews}"
    )


def _cost_lines(card: CalibrationCard) -> Iterator[str]:
    costs = card.costs
    if not costs:
        return
    yield (
        f"least expected cost, {costs['expected_cost']:.4g} per product, at a threshold of "
        f"{costs['value']:.6g}: {percent(costs['escape_rate'])} of defects escape, "
        f"{percent(costs['overkill_rate'])} of good products are flagged (on these images; not a "
        "promise)"
    )


def _suspicious_lines(card: CalibrationCard) -> Iterator[str]:
    if card.suspicious:
        more = f" and {len(card.suspicious) - 5} more" if len(card.suspicious) > 5 else ""
        many = len(card.suspicious) > 1
        what = f"{len(card.suspicious)} good images score" if many else "1 good image scores"
        yield (
            f"{what} far above the others; if {'one' if many else 'it'} is defective, remove it "
            f"and calibrate again: {', '.join(card.suspicious[:5])}{more}"
        )


def _pictures(heading: str, results: Sequence[Result]) -> Iterator[str]:
    if not results:
        return
    yield f"<h2>{heading}</h2><div>"
    for result in results:
        name = html.escape(str(result.path or result.name))
        yield (
            f'<figure><img alt="" src="data:image/jpeg;base64,{_jpeg(result)}">'
            f"<figcaption>{name}<br>score {result.score:.6g}</figcaption></figure>"
        )
    yield "</div>"


def _jpeg(result: Result) -> str:
    import cv2

    picture = result.plot()
    scale = _EDGE / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return base64.b64encode(data.tobytes()).decode("ascii")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0; width: 11rem; vertical-align: top; }}
img {{ width: 100%; }} figcaption {{ font-size: 12px; overflow-wrap: anywhere; }}
</style></head><body>
{body}
</body></html>
"""
