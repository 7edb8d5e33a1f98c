from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.data.layouts import load_dataset
from toolkit.data.validate import validate_dataset
from toolkit.errors import DataError


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _other_size(path: Path) -> None:
    cv2.imwrite(str(path), np.full((9, 7), 255, np.uint8))


def _image(root: Path) -> Path:
    return root / "test/contamination/000.png"


def _mask(root: Path) -> Path:
    return root / "ground_truth/contamination/000_mask.png"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: _image(r).unlink(), r"000_mask\.png: mask without image"),
        (lambda r: _mask(r).unlink(), r"contamination/000\.png: defective image without mask"),
        (lambda r: _cut(_image(r)), r"contamination/000\.png: not a readable image"),
        (lambda r: _other_size(_mask(r)), r"000_mask\.png: mask is 7x9 but its image 000\.png is"),
        (lambda r: _mask(r).write_text("no image"), r"000_mask\.png"),  # a mask that is no image
    ],
)
def test_what_cannot_be_used_is_named(
    sample_dir: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree(sample_dir, root)
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        validate_dataset(load_dataset(root))
    assert "\n" not in str(caught.value)


def test_a_whole_data_set_passes(sample_dir: Path) -> None:
    assert validate_dataset(load_dataset(sample_dir)) is None
