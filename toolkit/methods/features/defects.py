"""Defect images for few-label scorers: labelled ones, or pseudo-defects where there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from toolkit.data.images import read_rgb, read_truth
from toolkit.data.types import Sample
from toolkit.methods.features.pseudo import pseudo_defect

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from toolkit.data.splits import Split
    from toolkit.methods.features.extractor import FeatureExtractor

Pseudo: TypeAlias = Literal["auto", "always", "never"]


def labelled_defects(split: Split) -> list[Sample]:
    """Return the defective training images."""
    return [s for s in split.train if s.is_defect]


def wants_pseudo(how: Pseudo, labelled: Sequence[Sample]) -> bool:
    """Whether pseudo-defects are made: `auto` makes them where no defect is labelled."""
    return how == "always" or (how == "auto" and not labelled)


def pseudo_images(
    good: Sequence[Sample], count: int, *, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield good images with a pseudo-defect each, and where it is.

    Args:
        good: images to change; each serves again when all have served.
        count: how many to make.
        seed: of the images' order and of the defects.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(good))
    for i in range(count):
        image = read_rgb(good[order[i % len(good)]].image)
        other = read_rgb(good[order[(i + 1) % len(good)]].image)
        yield pseudo_defect(image, other, rng)


def cells_in(mask: NDArray[np.bool_], extractor: FeatureExtractor, *, share: float = 0.5) -> Tensor:
    """Return which cells of the patch grid lie in a mask, bool tensor (cells,).

    Where no cell is covered by `share`, the one that is covered most is taken: a scratch counts.

    Args:
        mask: bool array (H, W) of the image's size.
        extractor: whose grid.
        share: of a cell's area that has to be defective.
    """
    import cv2
    import torch

    rows, columns = extractor.grid_hw
    covered = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    inside = covered >= share
    if not inside.any() and covered.max() > 0:
        inside = covered == covered.max()
    return torch.from_numpy(inside.ravel())


def truth_cells(sample: Sample, extractor: FeatureExtractor) -> Tensor:
    """Return which cells lie in the sample's masks; see `cells_in`."""
    return cells_in(read_truth(sample), extractor)
