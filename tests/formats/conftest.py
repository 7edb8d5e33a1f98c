"""A small data set whose every pixel is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset

Mask = NDArray[np.uint8]


def write_png(path: Path, pixels: NDArray[np.generic]) -> Path:
    """Write an array as PNG, whatever the path's characters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def blank(width: int = 60, height: int = 40) -> Mask:
    """Return an empty mask."""
    return np.zeros((height, width), np.uint8)


def masks() -> dict[str, Mask]:
    """Return the masks of the small data set, by `type/stem`."""
    wide = blank()
    wide[10:20, 5:55] = 255  # 50 pixels wide
    ring = blank()
    ring[5:30, 5:30] = 255
    ring[10:25, 10:25] = 0  # a hole,
    ring[15:20, 15:20] = 255  # an island in it,
    ring[35, 50] = 255  # a speck
    ring[2, 32:58] = 255  # and a line
    splinters = blank()
    splinters[5:10, 5:10] = splinters[5:10, 12:20] = splinters[30:35, 40:50] = 255
    return {
        "scratch/000": wide,
        "scratch/001": ring,
        "dent/000": splinters,
        "dent/001": wide // 255,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An MVTec folder: 4 training, 2 good and 4 defect images of 60 x 40 pixels."""
    root = tmp_path / "part"
    rng = np.random.default_rng(0)
    names = [f"train/good/{i:03d}" for i in range(4)] + ["test/good/000", "test/good/001"]
    for name in [*names, *(f"test/{name}" for name in masks())]:
        write_png(root / f"{name}.png", rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    for name, mask in masks().items():
        write_png(root / f"ground_truth/{name}_mask.png", mask)
    return root


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    """The small data set."""
    return load_dataset(folder)


@pytest.fixture
def reread(folder: Path) -> Callable[[], Dataset]:
    """Read the small data set again, after it was changed."""
    return lambda: load_dataset(folder)
