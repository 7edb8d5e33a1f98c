"""Masks with grey edges are cut at 127; masks whose values have a meaning stay exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from toolkit.data.check import check_dataset
from toolkit.data.images import has_grey_edges, read_mask, read_mask_values, read_truth
from toolkit.data.layouts import load_dataset
from toolkit.formats.convert import convert

Mask = NDArray[np.uint8]
SIZE = (90, 120)


def drawn() -> Mask:
    """Two discs, three pixels apart, with hard edges."""
    mask = np.zeros(SIZE, np.uint8)
    cv2.circle(mask, (40, 45), 18, 255, -1)
    cv2.circle(mask, (80, 45), 18, 255, -1)
    return mask


def antialiased() -> Mask:
    """The same, shrunk from four times the size."""
    large = cv2.resize(drawn(), (480, 360), interpolation=cv2.INTER_NEAREST)
    large = cv2.warpAffine(large, np.array([[1, 0.03, 1.3], [0, 1, 2.1]]), (480, 360))
    return cv2.resize(large, SIZE[::-1], interpolation=cv2.INTER_AREA)


def blurred() -> Mask:
    return cv2.GaussianBlur(drawn(), (0, 0), 1.5)


def classes(values: range | list[int]) -> Mask:
    mask = np.zeros(SIZE, np.uint8)
    for place, value in enumerate(values):
        row, column = divmod(place, 12)
        mask[2 + row * 10 : 9 + row * 10, 2 + column * 10 : 9 + column * 10] = value
    return mask


def thin_classes() -> Mask:
    """Scratches one pixel wide of twenty classes, and pixels to ignore."""
    mask = np.zeros(SIZE, np.uint8)
    for value in range(1, 21):
        mask[4 * value, 5:100] = value
    mask[:, 110:] = 255
    return mask


@pytest.mark.parametrize("make", [antialiased, blurred])
def test_cut_at_127(tmp_path: Path, make: Callable[[], Mask]) -> None:
    values = make()
    assert has_grey_edges(values)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == (values > 127)).all()
    assert (read_mask(tmp_path / "m.png", threshold=0) == (values > 0)).all()
    assert (read_mask(tmp_path / "m.png", threshold=200) == (values > 200)).all()
    Image.fromarray(np.dstack([values] * 3)).save(tmp_path / "rgb.png")
    assert (read_mask(tmp_path / "rgb.png") == (values > 127)).all()


EXACT = {
    "0/255": drawn(),
    "0/1": drawn() // 255,
    "class indices": classes(range(1, 9)),
    "many class indices, 255 to ignore": classes([*range(1, 41), 255]),
    "class indices over the whole range": classes([*range(5, 255, 10), 255]),
    "thin regions of many classes": thin_classes(),
    "few grey levels": classes([85, 170, 255]),
    "one value that is not 255": drawn() // 2,
    "empty": drawn() * 0,
    "full": drawn() * 0 + 255,
    "photograph": np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8),
}


@pytest.mark.parametrize("kind", EXACT)
def test_exact(tmp_path: Path, kind: str) -> None:
    Image.fromarray(EXACT[kind]).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == (EXACT[kind] > 0)).all()


def test_palette_and_16_bit_stay_exact(tmp_path: Path) -> None:
    values = antialiased()
    palette = Image.fromarray(values, "P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "p.png")
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "16.png")
    for name in ("p.png", "16.png"):
        assert (read_mask_values(tmp_path / name) == values).all()
        assert (read_mask(tmp_path / name) == (values > 0)).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name in ("train/good/0", "test/good/0", "test/dent/0", "test/dent/1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(root / f"{name}.png")
    (root / "ground_truth/dent").mkdir(parents=True)
    for number in (0, 1):
        Image.fromarray(blurred()).save(root / f"ground_truth/dent/{number}_mask.png")
    return root


def test_check_reports_them_once_per_folder(folder: Path) -> None:
    (finding,) = check_dataset(folder)
    assert (finding.kind, finding.severity) == ("grey-mask", "warning")
    assert finding.path == folder / "ground_truth/dent"
    assert "2 masks with grey edges" in finding.message
    assert "--mask-threshold" in finding.message
    assert check_dataset(load_dataset(folder, mask_threshold=127)) == []


def test_conversion_counts_them(folder: Path, tmp_path: Path) -> None:
    report = convert(load_dataset(folder), to="coco", out=tmp_path / "out")
    assert report.grey_edges == 2
    assert report.record()["grey_edges"] == 2
    assert report.n_regions == 4
    assert not report.problems
    joined = convert(load_dataset(folder), to="coco", out=tmp_path / "0", mask_threshold=0)
    assert (joined.grey_edges, joined.n_regions) == (0, 2)
    # the same through the data set
    data = load_dataset(folder, mask_threshold=0)
    assert convert(data, to="coco", out=tmp_path / "1").n_regions == 2
    again = convert(load_dataset(folder), to="coco", out=tmp_path / "1", overwrite=True)
    assert (again.up_to_date, again.n_regions) == (False, 4)


def test_training_sees_the_same_masks(folder: Path) -> None:
    plain, low = load_dataset(folder), load_dataset(folder, mask_threshold=0)
    sample = plain.by_id["test/dent/0.png"]
    assert (read_truth(sample) == (blurred() > 127)).all()
    assert (read_truth(low.by_id[sample.id]) == (blurred() > 0)).all()
    assert plain.fingerprint != low.fingerprint
    assert replace(sample, mask_threshold=0) == low.by_id[sample.id]
