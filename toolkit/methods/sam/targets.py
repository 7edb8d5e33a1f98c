"""What the decoder is trained on: every region of every training image, in every cached view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_truth
from toolkit.data.regions import Region, regions_of
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.sam.decoder import LOW_SIZE, scale_to_input
from toolkit.methods.sam.views import view_of_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INPUT_PER_LOW = 4


@dataclass(frozen=True)
class Target:
    """One region of one view of one image; without a region it is a place on a good image.

    Attributes:
        sample: the image.
        view: number of the view, see `views`.
        size_wh: size of the view.
        box_xyxy: half-open box in the view.
        region: the region in the view; None for a good place.
        low: float32 array (256, 256) in [0, 1], the region's share of each of the decoder's
            pixels; all zero for a good place.
    """

    sample: Sample
    view: int
    size_wh: tuple[int, int]
    box_xyxy: tuple[int, int, int, int]
    region: Region | None
    low: NDArray[np.float32]


def region_targets(samples: Iterable[Sample], *, views: int = 1) -> list[Target]:
    """Return one target per region and view of the defective samples.

    Raises:
        DataError: a defective sample has no mask, or an empty one.
    """
    targets = []
    for sample in samples:
        if not sample.is_defect:
            continue
        truth = read_truth(sample)
        if not truth.any():
            raise DataError(
                f"{sample.image}: its mask is missing or empty, so there is nothing to learn "
                "from; mend the mask or leave the image out (toolkit dataset check)"
            )
        for view in range(views):
            turned = view_of_array(truth, view)
            targets += [_target(sample, view, turned, region) for region in regions_of(turned)]
    return targets


def good_targets(
    samples: Iterable[Sample], like: list[Target], count: int, rng: np.random.Generator
) -> list[Target]:
    """Return places on good images, with boxes of the sizes that defects have.

    They teach the predicted quality to stay low where there is nothing to segment.

    Args:
        samples: samples to choose good ones from.
        like: targets whose box sizes are drawn from.
        count: how many to make, at most one per good image.
        rng: draws images, sizes and places.
    """
    good = [s for s in samples if not s.is_defect]
    if not like:
        return []
    targets = []
    for index in rng.permutation(len(good))[:count]:
        model = like[int(rng.integers(len(like)))]
        x0, y0, x1, y1 = model.box_xyxy
        width, height = model.size_wh
        left = int(rng.integers(0, width - (x1 - x0) + 1))
        top = int(rng.integers(0, height - (y1 - y0) + 1))
        targets.append(
            Target(
                sample=good[int(index)],
                view=0,
                size_wh=model.size_wh,
                box_xyxy=(left, top, left + x1 - x0, top + y1 - y0),
                region=None,
                low=np.zeros((LOW_SIZE, LOW_SIZE), np.float32),
            )
        )
    return targets


def low_mask(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scale a mask of the image (H, W) to the decoder's grid, as SAM scales and pads the image.

    Returns:
        float32 array (256, 256): the share of each pixel that the mask covers.
    """
    import cv2

    height, width = mask.shape
    scale = scale_to_input((width, height)) / _INPUT_PER_LOW
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    low = np.zeros((LOW_SIZE, LOW_SIZE), np.float32)
    low[: inner[1], : inner[0]] = cv2.resize(
        mask.astype(np.float32), inner, interpolation=cv2.INTER_AREA
    )
    return low


def _target(sample: Sample, view: int, mask: NDArray[np.bool_], region: Region) -> Target:
    size_wh = (mask.shape[1], mask.shape[0])
    return Target(
        sample=sample,
        view=view,
        size_wh=size_wh,
        box_xyxy=region.box_xyxy,
        region=region,
        low=low_mask(region.mask(size_wh)),
    )
