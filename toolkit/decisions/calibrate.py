"""Calibrate a finished run on images that it was not trained on."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.data.types import file_sha256
from toolkit.decisions.calibration import clopper_pearson, false_alarm_threshold, images_needed
from toolkit.decisions.card import CalibrationCard, model_sha256, training_sha256
from toolkit.decisions.costs import cheapest_threshold
from toolkit.decisions.cross_fit import CrossFit
from toolkit.errors import ConfigError, DataError
from toolkit.inference.model import Model
from toolkit.inference.result import Result
from toolkit.inference.sources import SourceImage, iterate_source
from toolkit.prediction import Prediction
from toolkit.runs.scored_predictions import load_scored_predictions

N_PICTURES = 5


@dataclass(frozen=True)
class Prices:
    """What wrong decisions cost.

    Attributes:
        escape: cost of a defective product that passes, in any currency.
        false_alarm: cost of a good product that is flagged, in the same currency.
        defect_rate: share of defective products on the line.
    """

    escape: float
    false_alarm: float
    defect_rate: float


@dataclass(frozen=True)
class Calibration:
    """A card, with the pictures that belong to it.

    Attributes:
        card: the calibration card.
        worst_good: the good images of the highest scores, highest first.
        escaped: the defective images of the lowest scores that pass, lowest first.
        duplicates: names of images that were left out, since they equal another one.
    """

    card: CalibrationCard
    worst_good: tuple[Result, ...]
    escaped: tuple[Result, ...]
    duplicates: tuple[str, ...]


def calibrate(
    model: Model,
    good: str | Path | CrossFit,
    *,
    defects: str | Path | None = None,
    max_false_alarms: float = 0.01,
    max_reviews: float | None = None,
    confidence: float = 0.95,
    prices: Prices | None = None,
) -> Calibration:
    """Set the thresholds of a run from good images that it was not trained on.

    Of images that are equal byte by byte one is used, since the promise rests on independent draws.

    Example:
        >>> model = toolkit.load_model("runs/patchcore/001")  # doctest: +SKIP
        >>> card = calibrate(model, "good/", max_false_alarms=0.05).card  # doctest: +SKIP
        >>> toolkit.load_model(model.run, calibration=card)  # doctest: +SKIP

    Args:
        model: the loaded run.
        good: folder of good images; or the held-out scores of the training images, see
            `cross_fit`, to which the good validation images are added.
        defects: folder of defective images; they count escapes, and set no promise.
        max_false_alarms: largest share of good products that may be NOK.
        max_reviews: largest share of good products that may be REVIEW or NOK; None for no REVIEW.
        confidence: probability, over the draw of the good images, that each promise holds.
        prices: what wrong decisions cost; needs `defects`.

    Raises:
        DataError: fewer than two good images, an image that the run was trained on, one that is
            both good and defective or cannot be read, a rate outside 0 to 1, a negative cost.
        ConfigError: `max_reviews` below `max_false_alarms`, or prices without defects.
        RunError: the run does not record its training images, or a score is not finite.
    """
    if prices is not None and defects is None:
        raise ConfigError("costs: need defective images; add --defects FOLDER")
    # Wrong numbers fail before anything is predicted.
    images_needed(max_false_alarms, confidence)
    if max_reviews is not None and not max_false_alarms < max_reviews < 1:
        raise ConfigError(
            f"max_reviews={max_reviews}: must be above max_false_alarms={max_false_alarms}, since "
            "NOK counts too, and below 1"
        )
    if prices is not None:
        cheapest_threshold([0.0], [1.0], **_costs(prices))
    trained_on = training_sha256(model.run)
    used = (
        _cross_fitted(model, good)
        if isinstance(good, CrossFit)
        else _held_back(model, good, trained_on)
    )
    scores, duplicates = used.scores, list(used.duplicates)
    defect_images: dict[str, SourceImage] = {}
    if defects is not None:
        defect_images, more = _unused(defects, trained_on)
        duplicates += more
        if mixed := [one.path for one in defect_images.values() if "good" in Path(one.name).parts]:
            raise DataError(f"{mixed[0]}: in a folder named good; --defects takes defective images")
        if both := [name for name in defect_images if name in used.hashes]:
            raise DataError(
                f"{defect_images[both[0]].path}: is also in {used.folder}; an image is good or "
                "defective"
            )
    nok = false_alarm_threshold(scores, max_false_alarms=max_false_alarms, confidence=confidence)
    review = None
    if max_reviews is not None:
        review = false_alarm_threshold(scores, max_false_alarms=max_reviews, confidence=confidence)
    lowest = nok.value if review is None else review.value
    found: dict[str, Any] = {}
    escaped: tuple[Result, ...] = ()
    if defects is not None:
        defect_scores, best = _scores(model, defect_images.values(), highest=False)
        escaped = tuple(result for result in best if result.score < lowest)
        escapes = sum(score < lowest for score in defect_scores)
        found["defects"] = {
            "folder": str(defects),
            "images": len(defect_scores),
            "escapes": escapes,
            "escape_rate": escapes / len(defect_scores),
            "interval": list(clopper_pearson(escapes, len(defect_scores))),
            "reviews": sum(lowest <= score < nok.value for score in defect_scores),
        }
        if prices is not None:
            cheapest = cheapest_threshold(scores, defect_scores, **_costs(prices))
            found["costs"] = {**_costs(prices), **vars(cheapest)}
    order = [int(i) for i in np.argsort(-np.array(scores), kind="stable")]
    far_out = _far_out(scores)
    names, hashes = used.names, used.hashes
    card = CalibrationCard(
        model={
            "method": model.run.method,
            "name": model.run.path.name,
            "sha256": model_sha256(model.run),
        },
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        nok=nok,
        review=review,
        good={
            "folder": used.folder,
            "cross_fit": used.folds,
            "images": [{"name": names[i], "sha256": hashes[i], "score": scores[i]} for i in order],
        },
        suspicious=tuple(names[i] for i in order if far_out[i]),
        **found,
    )
    return Calibration(card, used.worst, escaped, tuple(duplicates))


@dataclass(frozen=True)
class _Good:
    """Good images and their scores, and the few results of the highest ones."""

    folder: str
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    scores: list[float]
    worst: tuple[Result, ...]
    duplicates: tuple[str, ...] = ()
    folds: int = 0


def _held_back(model: Model, folder: str | Path, trained_on: frozenset[str]) -> _Good:
    images, duplicates = _unused(folder, trained_on)
    if len(images) < 2:
        raise DataError(
            f"{folder}: {len(images)} image; a calibration needs at least two, and more for any "
            "useful promise"
        )
    scores, worst = _scores(model, images.values(), highest=True)
    names = tuple(one.name for one in images.values())
    return _Good(str(folder), names, tuple(images), scores, worst, tuple(duplicates))


def _cross_fitted(model: Model, found: CrossFit) -> _Good:
    """Return the scores of the training images by models that lack them, and of validation."""
    val = load_scored_predictions(model.run, found.dataset, "val")
    scored = dict(zip(found.samples, found.scores, strict=True))
    scored |= {
        s: x for s, x in zip(val.samples, val.scores.tolist(), strict=True) if not s.is_defect
    }
    samples, scores = list(scored), list(scored.values())
    # The run's own heat map shows little of an image that it was trained on: scores alone.
    worst = tuple(
        Result(Prediction(scores[i]), read_rgb(samples[i].image), None, samples[i].id)
        for i in np.argsort(-np.array(scores), kind="stable")[:N_PICTURES]
    )
    return _Good(
        str(found.dataset.root),
        tuple(s.id for s in samples),
        tuple(found.dataset.content[s.id] for s in samples),
        scores,
        worst,
        folds=found.folds,
    )


def _costs(prices: Prices) -> dict[str, float]:
    return {
        "cost_escape": prices.escape,
        "cost_false_alarm": prices.false_alarm,
        "defect_rate": prices.defect_rate,
    }


def _unused(
    folder: str | Path, trained_on: frozenset[str]
) -> tuple[dict[str, SourceImage], list[str]]:
    """Return the images of a folder by SHA-256, and the names of those that equal another one."""
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; give a folder of images")
    images: dict[str, SourceImage] = {}
    duplicates, trained = [], []
    for image in iterate_source(folder):
        assert image.path is not None
        digest = file_sha256(image.path)
        if digest in trained_on:
            trained.append(image.name)
        if digest in images:
            duplicates.append(image.name)
        else:
            images[digest] = image
    if trained:
        raise DataError(
            f"{Path(folder) / trained[0]}: the run was trained on this image ({len(trained)} such "
            "in this folder), whose score is therefore too low; calibrate with images that were "
            "held back"
        )
    return images, duplicates


def _scores(
    model: Model, images: Iterable[SourceImage], *, highest: bool
) -> tuple[list[float], tuple[Result, ...]]:
    """Return all scores in order, and the few results of the highest or the lowest scores."""
    scores: list[float] = []
    kept: list[tuple[float, int, Result]] = []
    for number, result in enumerate(model.predict([i.path for i in images], stream=True)):
        scores.append(result.score)
        key = result.score if highest else -result.score
        heapq.heappush(kept, (key, -number, result))
        if len(kept) > N_PICTURES:
            heapq.heappop(kept)
    return scores, tuple(result for *_, result in sorted(kept, key=lambda one: one[:2])[::-1])


def _far_out(scores: Sequence[float]) -> list[bool]:
    """Return which scores lie above the outer fence, Q3 + 3 (Q3 - Q1).

    Tukey, "Exploratory Data Analysis", 1977.
    """
    low, high = np.quantile(scores, [0.25, 0.75])
    return [bool(score > high + 3 * (high - low)) for score in scores]
