"""Specks: small defects made of large ones, pasted beside them.

A few dozen masks hold hardly any small region, and a decoder tuned on them learns that a click
means the large, striking defect, wherever it lies. A picture of both says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_rgb, read_truth
from toolkit.data.regions import Region, regions_of
from toolkit.data.types import Sample
from toolkit.methods.sam.views import COUNT, view_of_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = (0.014, 0.04)
"""Longest side of a speck in shorter sides of the image: 13 to 36 pixels of 900."""
_PER_PICTURE = 2
_LEAST_AREA = 12
_TRIES = 20


@dataclass(frozen=True)
class _Donor:
    sample: Sample
    region: Region


def pictures_with_specks(
    samples: Sequence[Sample], folder: Path, *, count: int, rng: np.random.Generator
) -> list[Sample]:
    """Write pictures of defective samples with up to two specks each.

    A speck is a region of any of the samples, made small; it lies where one of the samples has a
    defect, beside what the picture itself has. The pictures are turned and flipped at random.

    Args:
        samples: defective, with masks.
        folder: receives the pictures and masks.
        count: of pictures.
        rng: draws pictures, specks, sizes and places.

    Returns:
        Samples whose masks hold the specks alone; fewer than wanted where there was no room.
    """
    import cv2

    truths = [read_truth(sample) for sample in samples]
    donors = [_Donor(s, r) for s, t in zip(samples, truths, strict=True) for r in regions_of(t)]
    made = []
    for number in range(count if donors else 0):
        index = int(rng.integers(len(samples)))
        picture = read_rgb(samples[index].image).copy()
        specks = np.zeros(truths[index].shape, np.bool_)
        taken = truths[index].copy()
        for _ in range(_PER_PICTURE):
            _paste(picture, specks, taken, donors, rng)
        if not specks.any():
            continue
        view = int(rng.integers(COUNT))
        image, mask = folder / f"{number}.png", folder / f"{number}-mask.png"
        cv2.imwrite(str(image), cv2.cvtColor(view_of_array(picture, view), cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(mask), view_of_array(specks, view).astype(np.uint8) * 255)
        name = f"{samples[index].id} with specks {number}"
        made.append(Sample(id=name, image=image, label="speck", masks=(mask,)))
    return made


def _paste(
    picture: NDArray[np.uint8],
    specks: NDArray[np.bool_],
    taken: NDArray[np.bool_],
    donors: Sequence[_Donor],
    rng: np.random.Generator,
) -> None:
    """Paste one speck and mark it, unless no place is found for it."""
    import cv2

    height, width = specks.shape
    for _ in range(_TRIES):
        patch, mask = _speck(donors[int(rng.integers(len(donors)))], min(height, width), rng)
        where = donors[int(rng.integers(len(donors)))].region
        row, column = np.argwhere(where.crop)[int(rng.integers(where.area))]
        h, w = mask.shape
        y, x = where.box_xyxy[1] + int(row) - h // 2, where.box_xyxy[0] + int(column) - w // 2
        around = np.s_[max(y - h, 0) : y + 2 * h, max(x - w, 0) : x + 2 * w]
        inside = x >= 0 and y >= 0 and x + w <= width and y + h <= height
        if not inside or mask.sum() < _LEAST_AREA or taken[around].any():
            continue
        # Softened, so that it is not the sharp rim that tells a speck.
        share = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)[..., None]
        part = picture[y : y + h, x : x + w]
        part[:] = np.round(share * patch + (1 - share) * part).astype(np.uint8)
        specks[y : y + h, x : x + w] |= mask
        taken[y : y + h, x : x + w] |= mask
        return


def _speck(
    donor: _Donor, side: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a region's picture (h, w, 3) and mask (h, w) made small, one pixel free around it."""
    import cv2

    x0, y0, x1, y1 = donor.region.box_xyxy
    low, high = np.log(_SIDE)
    scale = min(float(np.exp(rng.uniform(low, high))) * side / max(x1 - x0, y1 - y0), 1.0)
    size = max(round((x1 - x0) * scale), 1), max(round((y1 - y0) * scale), 1)
    shown = read_rgb(donor.sample.image)[y0:y1, x0:x1]
    patch = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    cover = cv2.resize(donor.region.crop.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    border = ((1, 1), (1, 1))
    return np.pad(patch, (*border, (0, 0)), mode="edge"), np.pad(cover >= 0.5, border)
