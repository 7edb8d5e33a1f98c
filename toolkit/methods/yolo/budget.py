"""How large the images and how many the epochs are, where the settings leave it open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from toolkit.data.images import image_size, read_regions
from toolkit.data.types import Sample

FINEST_STRIDE = 8
"""Pixels of the input per cell of the finest map on which Ultralytics' detectors look for boxes."""

_CELLS, _CELLS_IN_TILES = 2, 4  # that the smaller tenth of the defects spans at least
_MULTIPLE = 32
SMALLEST, LARGEST = 320, 640
"""Of the chosen image size."""

PIXELS = 7e8
"""Of all defect images in all epochs, to stay within ten minutes on two cores."""

STEPS = 150
"""Optimizer steps of a training: 30 epochs of 80 images."""

_MOST_TILES = 3  # tile sides per image side

FEWEST, MOST = 30, 100
"""Of the chosen number of epochs."""


def defect_sides(samples: Iterable[Sample]) -> list[tuple[float, int]]:
    """Return the side of each region's box (of a square of equal area) and its image's longer side.

    Args:
        samples: of the training part; those without masks or boxes have no regions.

    Returns:
        Pairs in pixels of the image.

    Raises:
        DataError: an image or mask cannot be read.
    """
    found = []
    for sample in samples:
        if sample.has_boxes:
            longest = max(image_size(sample.image)[:2])
            for _, region in read_regions(sample):
                x0, y0, x1, y1 = region.box_xyxy
                found.append((float(np.sqrt((x1 - x0) * (y1 - y0))), longest))
    return found


def wanted_size(sides: Sequence[tuple[float, int]], *, cells: int = _CELLS) -> int:
    """Return the longest side of images in which nine of ten defects span some finest cells.

    Example:
        >>> wanted_size([(40.0, 1000)])  # a cell has 8 pixels
        416

    Args:
        sides: of `defect_sides`; at least one.
        cells: that the smaller tenth of the defects shall span.

    Returns:
        A multiple of 32, at most the longest image rounded up: images are not blown up.
    """
    share = float(np.quantile([side / longest for side, longest in sides], 0.1))
    largest = max(longest for _, longest in sides)
    pixels = min(cells * FINEST_STRIDE / share, largest)
    return _MULTIPLE * -(-int(np.ceil(pixels)) // _MULTIPLE)


def bounded_size(sides: Sequence[tuple[float, int]], *, images: int, epochs: int) -> int:
    """Return `wanted_size`, from `SMALLEST` to `LARGEST`, as far as `PIXELS` allow.

    Fewer epochs of larger images are no way out: see docs/experiments/yolo.md.

    Args:
        sides: of `defect_sides`.
        images: with defects in an epoch, pasted ones included.
        epochs: of the training.
    """
    affordable = int(np.sqrt(PIXELS / (images * epochs))) // _MULTIPLE * _MULTIPLE
    return max(SMALLEST, min(wanted_size(sides), affordable, LARGEST))


def tiled_size(sides: Sequence[tuple[float, int]], tile: int) -> int:
    """Return the longest side of images that are cut into tiles; 0 where tiles gain nothing."""
    size = min(wanted_size(sides, cells=_CELLS_IN_TILES), _MOST_TILES * tile)
    return size if size > tile else 0


def epochs_for(images: int, batch: int, *, views: int = 1) -> int:
    """Return how many epochs make `STEPS` optimizer steps, from `FEWEST` to `MOST`.

    Where an epoch shows each defect in several `views`, fewer will do.

    Example:
        >>> epochs_for(123, 16), epochs_for(12, 16)
        (30, 100)
    """
    return min(max(round(STEPS / -(-images // batch)), FEWEST // views), MOST)
