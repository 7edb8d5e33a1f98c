"""Training and evaluation targets: every region of every image, in every cached view."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from toolkit.data.images import read_truth
from toolkit.data.regions import Region, regions_of
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.sam.batched_decoder import LOW_RES_SIZE
from toolkit.methods.sam.crops import random_crop
from toolkit.methods.sam.tta import VIEW_COUNT, WHOLE, View
from toolkit.runtime.segmentation import scale_to_input

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_INPUT_PER_LOW_RES = 4


@dataclass(frozen=True)
class Target:
    """One region in one view of one image; without a region it is a place on a good image.

    Attributes:
        sample: the image.
        view: of the image; all that follows is in the view's pixels.
        size_wh: width and height of the view.
        box_xyxy: half-open box.
        region: None for a good place.
        low_res_mask: float32 array (256, 256) in [0, 1], the region's share of each of the
            decoder's pixels; all zero for a good place.
    """

    sample: Sample
    view: View
    size_wh: tuple[int, int]
    box_xyxy: tuple[int, int, int, int]
    region: Region | None
    low_res_mask: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingData:
    """Training and validation targets.

    Attributes:
        targets: training regions in all views.
        good: good training samples, for places without a defect.
        val: validation regions.
    """

    targets: Sequence[Target]
    good: Sequence[Sample]
    val: Sequence[Target]


class Embeddings(Protocol):
    """Source of the embeddings of samples, such as `encoder.EmbeddingCache`."""

    def get(self, sample: Sample, view: View = ..., /) -> Tensor:
        """Return the embedding of a view of an image, float (256, 64, 64)."""


def region_targets(
    samples: Iterable[Sample],
    *,
    augmentations: int = 1,
    crops_per_region: int = 0,
    crop_scale: float = 0.0,
    about: int | None = None,
) -> list[Target]:
    """Return one target per region and view of the defective samples.

    Args:
        samples: good ones are skipped.
        augmentations: views of the whole image.
        crops_per_region: further views per region: random crops around it, or, where it fills most
            of the image, further views of the image. A region's crops are always the same, so that
            runs share their embeddings.
        crop_scale: side of a medium crop, in longest sides of the region.
        about: many regions have fewer views each (at least one of either kind), so that there are
            about this many targets.

    Raises:
        DataError: a defective sample has no mask (boxes are not enough), or an empty one.
    """
    found: list[tuple[Sample, tuple[int, int], list[Region]]] = []
    for sample in samples:
        if not sample.is_defect:
            continue
        if sample.has_boxes and not sample.has_mask:
            raise DataError(
                f"{sample.image}: only boxes are labelled, and SAM learns masks; label outlines, "
                "or train a detector"
            )
        if not sample.masks and not sample.marks:
            raise DataError(
                f"{sample.image}: has no mask, and SAM learns masks; put one into "
                "ground_truth/<type>/, or train a method that needs none (patchcore, classifier)"
            )
        truth = read_truth(sample)
        if not truth.any():
            raise DataError(
                f"{sample.image}: its mask is empty, so there is nothing to learn "
                "from; fix the mask or remove the image (toolkit dataset check)"
            )
        found.append((sample, (truth.shape[1], truth.shape[0]), regions_of(truth)))
    total = sum(len(regions) for *_, regions in found) * (augmentations + crops_per_region)
    if about is not None and total > about:
        augmentations = max(round(augmentations * about / total), 1)
        crops_per_region = max(round(crops_per_region * about / total), min(crops_per_region, 1))
    targets = []
    for sample, size_wh, regions in found:
        for number, region in enumerate(regions):
            views = [View(index) for index in range(augmentations)]
            rng = np.random.default_rng([zlib.crc32(sample.id.encode()), number])
            for index in range(crops_per_region):
                crop = random_crop(region.box_xyxy, size_wh, crop_scale, rng)
                view = augmentations + index if crop is None else int(rng.integers(VIEW_COUNT))
                views.append(View(view % VIEW_COUNT, crop))
            targets += [_target(sample, view, size_wh, region) for view in views]
    return targets


def good_targets(
    good: Sequence[Sample], like: Sequence[Target], count: int, rng: np.random.Generator
) -> list[Target]:
    """Return places on good images, with boxes of the sizes that defects have in their views.

    They teach the predicted IoU to stay low where there is nothing to segment.

    Args:
        good: good samples to choose from.
        like: targets whose box sizes are drawn.
        count: number of places, at most one per good image.
        rng: draws images, sizes and places.
    """
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
                view=WHOLE,
                # Of the view, so that the box is the same share of the good image.
                size_wh=model.size_wh,
                box_xyxy=(left, top, left + x1 - x0, top + y1 - y0),
                region=None,
                low_res_mask=np.zeros((LOW_RES_SIZE, LOW_RES_SIZE), np.float32),
            )
        )
    return targets


def low_res_mask(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scale a mask of the image (H, W) to the decoder's grid, as SAM scales and pads the image.

    Returns:
        float32 array (256, 256): the share of each pixel that the mask covers.
    """
    import cv2

    height, width = mask.shape
    scale = scale_to_input((width, height)) / _INPUT_PER_LOW_RES
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    low = np.zeros((LOW_RES_SIZE, LOW_RES_SIZE), np.float32)
    low[: inner[1], : inner[0]] = cv2.resize(
        mask.astype(np.float32), inner, interpolation=cv2.INTER_AREA
    )
    return low


def _target(sample: Sample, view: View, image_wh: tuple[int, int], region: Region) -> Target:
    mask = view.of_mask(region.mask(image_wh))
    (visible,) = regions_of(mask)  # views hold the whole region, so it stays in one piece
    return Target(
        sample=sample,
        view=view,
        size_wh=(mask.shape[1], mask.shape[0]),
        box_xyxy=visible.box_xyxy,
        region=visible,
        low_res_mask=low_res_mask(mask),
    )
