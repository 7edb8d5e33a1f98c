"""Alignment of good images: does a place mean anything?"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.data.alignment import ALIGNED, alignment, alignment_of
from toolkit.data.layouts import load_dataset


def _part(rng: np.random.Generator, *, turned: bool, gradient: bool = False) -> np.ndarray:
    image = np.full((120, 160, 3), 120, np.uint8)
    cv2.rectangle(image, (40, 50), (120, 70), (30, 30, 30), -1)
    cv2.circle(image, (60, 60), 20, (200, 180, 160), -1)
    if turned:
        turn = cv2.getRotationMatrix2D((80, 60), rng.uniform(0, 360), 1)
        image = cv2.warpAffine(image, turn, (160, 120), borderMode=cv2.BORDER_REPLICATE)
    noisy = image + rng.normal(0, 5, image.shape)
    if gradient:
        noisy = noisy * np.linspace(0.5, 1.2, 160)[None, :, None]
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, *, gradient: bool = False) -> np.ndarray:
    noise = cv2.resize(rng.uniform(60, 190, (40, 50, 3)).astype(np.float32), (160, 120))
    light = np.linspace(0.5, 1.2, 160)[None, :, None] if gradient else 1.0
    return np.clip(noise * light, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("make", "aligned"),
    [
        (lambda rng: _part(rng, turned=False), True),
        (lambda rng: _part(rng, turned=False, gradient=True), True),
        (lambda rng: _part(rng, turned=True), False),
        (lambda rng: _texture(rng), False),
        (lambda rng: _texture(rng, gradient=True), False),  # a light that all share is no place
        (lambda rng: np.full((50, 60, 3), 90, np.uint8), False),
    ],
)
def test_parts_in_a_fixture_and_nothing_else_are_aligned(make, aligned: bool) -> None:
    rng = np.random.default_rng(0)
    assert (alignment([make(rng) for _ in range(20)]) >= ALIGNED) is aligned


def test_no_images_and_one_image_are_not_aligned() -> None:
    assert alignment([]) == alignment([np.zeros((4, 4, 3), np.uint8)]) == alignment_of([]) == 0.0


@pytest.mark.real
@pytest.mark.parametrize(
    ("category", "aligned"), [("bottle", True), ("screw", False), ("transistor", True)]
)
def test_real_products(bottle_dir: Path, category: str, aligned: bool) -> None:
    folder = bottle_dir.parent / category
    if not folder.is_dir():
        pytest.skip(f"{category} is not beside bottle")
    good = [s for s in load_dataset(folder).samples if s.part == "train"]
    assert (alignment_of(good) >= ALIGNED) is aligned
