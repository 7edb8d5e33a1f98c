"""The masked control: how much of a score is the defect, and how much is something else.

Each defect is filled in from the good training image that fits best around it, and the image is
predicted again. Good test images are filled in at the same places, since a seam may be seen as
well. What still tells the two apart (light, a background, the order of recording) is no defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_rgb, read_truth
from toolkit.data.shortcuts import auroc_interval
from toolkit.data.splits import hashed_order
from toolkit.data.types import Dataset, Sample
from toolkit.errors import DataError
from toolkit.methods.registry import load_method
from toolkit.progress import track
from toolkit.runs.evaluate import dataset_of
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.methods.base import Predictor

CONTROLS = ("masked",)
_MOST_DONORS = 24
_MARGIN = 1 / 64  # around the defect, of the shorter side
_RING = 1 / 32  # that a donor has to fit in


@dataclass(frozen=True)
class MaskedControl:
    """AUROC of runs with 95 % intervals (low and high), over the test images of all runs.

    Attributes:
        name: of the runs, and of the data.
        plain: good images against defects.
        masked: both filled in at places of defects.
        seam: good images as they are against good images filled in: 0.5 if no seam is seen.
        images: number of good images and of defects.
    """

    name: str
    plain: tuple[float, float, float]
    masked: tuple[float, float, float]
    seam: tuple[float, float, float]
    images: tuple[int, int]

    def __str__(self) -> str:
        good, defects = self.images
        kept = (self.masked[0] - 0.5) / max(self.plain[0] - 0.5, 1e-9)
        return "\n".join(
            [
                f"{self.name}: masked control on {good} good images and {defects} defects",
                f"  AUROC of good against defect                {_text(self.plain)}",
                f"  … with the defects filled in                {_text(self.masked)}",
                f"  … of good against good, filled in           {_text(self.seam)}",
                f"  {100 * min(max(kept, 0.0), 1.0):.0f} % of the score above chance stays without "
                "the defect",
            ]
        )


def masked_control(
    runs: Sequence[Run], *, moved_to: Path | None = None, show_progress: bool = False
) -> MaskedControl:
    """Predict the test images of runs again with the defects filled in.

    Example:
        >>> print(masked_control([Run.open("runs/classifier/001")]))  # doctest: +SKIP

    Args:
        runs: finished runs of one method on one data set; their test images are pooled.
        moved_to: where the data lies now, if it was moved.
        show_progress: whether to show progress on standard error.

    Raises:
        DataError: no test defect has a mask or a box, or there is no good image.
        RunError: the runs are not of these data.
    """
    dataset = dataset_of(runs[0], moved_to=moved_to)
    scores: dict[str, list[float]] = {"good": [], "defect": [], "good_in": [], "defect_in": []}
    for run in runs:
        _score(run, dataset, scores, show_progress=show_progress)
    if not scores["good"] or not scores["defect"]:
        raise DataError(
            f"{dataset.root}: the control needs good images and defects with a mask or a box in "
            "the test part"
        )
    return MaskedControl(
        name=f"{runs[0].metadata.get('entry', runs[0].method)} on {dataset.name}",
        plain=_auroc(scores["good"], scores["defect"]),
        masked=_auroc(scores["good_in"], scores["defect_in"]),
        seam=_auroc(scores["good"], scores["good_in"]),
        images=(len(scores["good"]), len(scores["defect"])),
    )


def fill_in(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], donors: Sequence[NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Replace a region by the same place of the good image that fits best around it.

    The donor's mean colour in a ring around the region is brought to that of the image, and the
    border is blended.

    Args:
        image: RGB (H, W, 3).
        mask: the region (H, W).
        donors: good images of the same size, at least one.

    Returns:
        RGB (H, W, 3); a copy.
    """
    import cv2

    side = min(mask.shape)
    inner = _grown(mask, _MARGIN * side)
    ring = _grown(inner, _RING * side) & ~inner
    if not ring.any():  # the region is the whole image
        ring = inner
    best, offset = min(
        ((donor, _offset(image, donor, ring)) for donor in donors),
        key=lambda pair: _misfit(image, pair[0], ring, pair[1]),
    )
    reach = 2 * max(1, round(_MARGIN * side / 2)) + 1
    weight = cv2.GaussianBlur(inner.astype(np.float32), (reach, reach), 0)[..., None]
    weight[mask] = 1  # nothing of the defect stays
    moved = best.astype(np.float32) + offset
    filled = image * (1 - weight) + moved * weight
    return np.asarray(np.clip(np.round(filled), 0, 255), np.uint8)


def _grown(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    import cv2

    reach = 2 * max(1, round(pixels)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return np.asarray(cv2.dilate(mask.view(np.uint8), kernel) > 0, np.bool_)


def _offset(
    image: NDArray[np.uint8], donor: NDArray[np.uint8], ring: NDArray[np.bool_]
) -> NDArray[np.float32]:
    difference = image[ring].astype(np.float32) - donor[ring]
    return np.asarray(difference.mean(axis=0), np.float32)


def _misfit(
    image: NDArray[np.uint8],
    donor: NDArray[np.uint8],
    ring: NDArray[np.bool_],
    offset: NDArray[np.float32],
) -> float:
    return float(np.abs(image[ring].astype(np.float32) - donor[ring] - offset).mean())


def _score(
    run: Run, dataset: Dataset, scores: dict[str, list[float]], *, show_progress: bool
) -> None:
    predictor = load_method(run).load(run)
    test = [dataset.by_id[name] for name in run.record["split"]["test"]]
    train = [dataset.by_id[name] for name in run.record["split"]["train"]]
    donors = _Donors([s for s in train if not s.is_defect])
    defects = [s for s in test if s.is_defect and s.has_boxes]
    good = [s for s in test if not s.is_defect]
    if not defects or not good:
        return
    for number, sample in enumerate(track([*defects, *good], "control", show=show_progress)):
        kind = "defect" if sample.is_defect else "good"
        image = read_rgb(sample.image)
        place = sample if sample.is_defect else defects[number % len(defects)]
        filled = fill_in(image, _region(place, image.shape), donors.of(image.shape))
        scores[kind].append(_predict(predictor, image))
        scores[f"{kind}_in"].append(_predict(predictor, filled))


def _predict(predictor: Predictor, image: NDArray[np.uint8]) -> float:
    return float(predictor.predict([image])[0].score)


def _region(sample: Sample, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a sample's defects in another image's size."""
    import cv2

    truth = read_truth(sample).view(np.uint8)
    placed = cv2.resize(truth, shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(placed > 0, np.bool_)


class _Donors:
    """Good training images, brought to the size of the image that they are to fill."""

    def __init__(self, good: Sequence[Sample]) -> None:
        by_id = {s.id: s for s in good}
        chosen = hashed_order(by_id, "donors")[:_MOST_DONORS]
        self._images = [read_rgb(by_id[key].image) for key in chosen]
        if not self._images:
            raise DataError("the control fills defects in from good training images: there is none")

    def of(self, shape: tuple[int, ...]) -> list[NDArray[np.uint8]]:
        """Return the images in the size (H, W)."""
        import cv2

        return [
            one if one.shape == shape else np.asarray(cv2.resize(one, shape[1::-1]), np.uint8)
            for one in self._images
        ]


def _auroc(low: Sequence[float], high: Sequence[float]) -> tuple[float, float, float]:
    return auroc_interval(np.array([*low, *high]), np.repeat([0, 1], [len(low), len(high)]))


def _text(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
