"""Symmetry and alignment, measured on drawn products of known symmetry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from toolkit.data.alignment import ALIGNED
from toolkit.data.layouts import load_dataset
from toolkit.data.symmetry import product_pose

if TYPE_CHECKING:
    from numpy.typing import NDArray


def disc(canvas: NDArray[np.uint8], rng: np.random.Generator) -> None:
    cv2.circle(canvas, (48, 48), int(rng.integers(28, 32)), (200, 200, 200), -1)


def bar(canvas: NDArray[np.uint8], rng: np.random.Generator) -> None:
    side = int(rng.integers(8, 12))
    cv2.rectangle(canvas, (48 - side, 14), (48 + side, 82), (200, 200, 200), -1)


def arrow(canvas: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Left and right are alike, top and bottom are not."""
    side = int(rng.integers(8, 12))
    cv2.rectangle(canvas, (48 - side, 14), (48 + side, 82), (200, 200, 200), -1)
    cv2.rectangle(canvas, (20, 14), (76, 34), (200, 200, 200), -1)


def letter(canvas: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """An L: no view is plausible."""
    side = int(rng.integers(8, 12))
    cv2.rectangle(canvas, (24, 14), (24 + 2 * side, 82), (200, 200, 200), -1)
    cv2.rectangle(canvas, (24, 66), (76, 82), (200, 200, 200), -1)


def thrown(canvas: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """A bar in any direction."""
    box = cv2.boxPoints(((48, 48), (18, 70), float(rng.uniform(0, 180))))
    cv2.fillPoly(canvas, [box.astype(np.int32)], (200, 200, 200))


def draw(
    root: Path, product: Callable[[NDArray[np.uint8], np.random.Generator], None], count: int = 60
) -> Path:
    rng = np.random.default_rng(0)
    for index in range(count):
        canvas = rng.integers(20, 60, (97, 97, 3), dtype=np.uint8)
        product(canvas, rng)
        (root / "good").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"good/{index}.png"), canvas)
    return root


@pytest.mark.parametrize(
    ("product", "flips", "rotation", "is_aligned"),
    [
        (disc, ("horizontal", "vertical"), "any", True),
        (bar, ("horizontal", "vertical"), "half", True),
        (arrow, ("horizontal",), "none", True),
        (letter, (), "none", True),
        (thrown, ("horizontal", "vertical"), "any", False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_products(
    tmp_path: Path,
    product: Callable[[NDArray[np.uint8], np.random.Generator], None],
    flips: tuple[str, ...],
    rotation: str,
    is_aligned: bool,
) -> None:
    pose = product_pose(load_dataset(draw(tmp_path, product)))
    assert pose.source == "good images"
    assert pose.symmetry is not None
    assert (pose.symmetry.flips, pose.symmetry.rotation) == (flips, rotation), pose.changes
    assert pose.alignment is not None
    assert (pose.alignment >= ALIGNED) == is_aligned, pose.alignment


def test_too_few_images(tmp_path: Path) -> None:
    pose = product_pose(load_dataset(draw(tmp_path, disc, count=4)))
    assert (pose.symmetry, pose.alignment) == (None, None)


def test_a_card_comes_first(tmp_path: Path) -> None:
    pose = product_pose(load_dataset(draw(tmp_path / "bottle", arrow, count=6)))
    assert pose.source == "card"
    assert pose.symmetry is not None
    assert pose.symmetry.rotation == "any"
