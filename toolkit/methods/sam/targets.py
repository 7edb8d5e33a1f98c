"""What the decoder is trained on: every region of every training image, in every cached frame."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_truth
from toolkit.data.regions import Region, regions_of
from toolkit.data.types import Sample
from toolkit.errors import DataError
from toolkit.methods.sam.decoder import LOW_SIZE, scale_to_input
from toolkit.methods.sam.frames import WHOLE, Frame, mask_in
from toolkit.methods.sam.views import COUNT
from toolkit.methods.sam.windows import random_window, window_around

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INPUT_PER_LOW = 4


@dataclass(frozen=True)
class Target:
    """One region in one frame of one image; without a region it is a place on a good image.

    Attributes:
        sample: the image.
        frame: what of the image is shown; all that follows is in the frame's pixels.
        size_wh: size of what is shown.
        box_xyxy: half-open box.
        region: None for a good place.
        low: float32 array (256, 256) in [0, 1], the region's share of each of the decoder's
            pixels; all zero for a good place.
    """

    sample: Sample
    frame: Frame
    size_wh: tuple[int, int]
    box_xyxy: tuple[int, int, int, int]
    region: Region | None
    low: NDArray[np.float32]


def region_targets(
    samples: Iterable[Sample], *, views: int = 1, windows: int = 0, zoom: float = 0.0
) -> list[Target]:
    """Return one target per region and frame of the defective samples.

    Args:
        samples: good ones are passed over.
        views: frames of the whole image.
        windows: further frames per region: random windows around it, or, where it fills most of
            the image, further views. A region's windows are always the same, so that runs share
            their embeddings.
        zoom: side of a window of middling size, in longest sides of the region.

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
        regions = regions_of(truth)
        for number, region in enumerate(regions):
            size_wh = (truth.shape[1], truth.shape[0])
            frames = [Frame(view) for view in range(views)]
            rng = np.random.default_rng([zlib.crc32(sample.id.encode()), number])
            for index in range(windows):
                window = random_window(region.box_xyxy, size_wh, zoom, rng)
                view = (views + index) if window is None else int(rng.integers(COUNT))
                frames.append(Frame(view % COUNT, window))
            targets += [_target(sample, frame, size_wh, region) for frame in frames]
    return targets


def closer_targets(samples: Iterable[Sample], *, zoom: float) -> list[Target]:
    """Return one target per region that has a window: the region as seen in it.

    Raises:
        DataError: as `region_targets`.
    """
    targets = []
    for whole in region_targets(samples):
        window = window_around(whole.box_xyxy, whole.size_wh, zoom)
        if window is not None and whole.region is not None:
            targets.append(_target(whole.sample, Frame(0, window), whole.size_wh, whole.region))
    return targets


def good_targets(
    samples: Iterable[Sample], like: list[Target], count: int, rng: np.random.Generator
) -> list[Target]:
    """Return places on good images, with boxes of the sizes that defects are seen with.

    A box has the share of the image's side that the defect has of its frame's, so pixels are
    those of the frame.

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
                frame=WHOLE,
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


def _target(sample: Sample, frame: Frame, image_wh: tuple[int, int], region: Region) -> Target:
    mask = mask_in(region.mask(image_wh), frame)
    (shown,) = regions_of(mask)  # frames hold the whole region, so it stays in one piece
    return Target(
        sample=sample,
        frame=frame,
        size_wh=(mask.shape[1], mask.shape[0]),
        box_xyxy=shown.box_xyxy,
        region=shown,
        low=low_mask(mask),
    )
