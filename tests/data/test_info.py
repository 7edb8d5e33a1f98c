"""Facts about a data set, against a small one whose every number is known."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.data.info import ImageKind, Range, dataset_info
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.errors import DataError


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def image(seed: int, width: int = 20, height: int = 10, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((10, 20), np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = 255
    return pixels


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Twenty by ten pixels; dents of 1, 2 and 5 %, in 1, 2 and 2 regions; one grey image."""
    root = tmp_path / "tiny"
    for i in range(3):
        write(root / f"train/good/{i}.png", image(i))
    write(root / "test/good/0.png", image(10, channels=1))
    dents = [
        [(0, 0, 2, 1)],
        [(0, 0, 2, 1), (5, 5, 7, 6)],
        # they touch at a corner only: one region of 8-connected pixels; and one apart
        [(0, 0, 3, 2), (3, 2, 4, 3), (10, 4, 13, 5)],
    ]
    for i, boxes in enumerate(dents):
        write(root / f"test/dent/{i}.png", image(20 + i))
        write(root / f"ground_truth/dent/{i}_mask.png", mask(*boxes))
    write(root / "test/wet/0.png", image(30))  # without a mask
    return root


def test_every_number(tiny: Path) -> None:
    info = dataset_info(load_dataset(tiny))
    assert (info.name, info.layout, info.images) == ("tiny", "mvtec", 8)
    assert info.defect_classes == ("dent", "wet")
    assert info.fingerprint == load_dataset(tiny).fingerprint
    assert info.image_kinds == (ImageKind(20, 10, 3, 7), ImageKind(20, 10, 1, 1))
    good, dent, wet = info.classes
    assert (good.label, good.train, good.test, good.images, good.with_mask) == ("good", 3, 1, 4, 0)
    assert (good.area_percent, good.regions) == (None, None)
    assert (dent.label, dent.train, dent.test, dent.with_mask) == ("dent", 0, 3, 3)
    assert dent.area_percent == Range(1.0, 2.0, 5.0)
    assert dent.regions == Range(1, 2, 2)
    assert (wet.images, wet.with_mask, wet.area_percent) == (1, 0, None)


def test_several_masks_of_an_image_are_united(tiny: Path) -> None:
    # The second mask lies over the first one's pixels and two more: not 1 % + 2 %.
    write(tiny / "ground_truth/dent/0_mask_1.png", mask((0, 0, 2, 2)))
    dent = dataset_info(load_dataset(tiny)).classes[1]
    assert dent.with_mask == 3
    assert dent.area_percent == Range(2.0, 2.0, 5.0)


def test_the_median_of_an_even_number(tiny: Path) -> None:
    write(tiny / "test/dent/3.png", image(40))
    write(tiny / "ground_truth/dent/3_mask.png", mask((0, 0, 20, 10)))
    dent = dataset_info(load_dataset(tiny)).classes[1]
    assert dent.area_percent == Range(1.0, 3.5, 100.0)
    assert dent.regions == Range(1, 1.5, 2)


def test_image_kinds_begin_with_the_most_frequent(tiny: Path) -> None:
    write(tiny / "test/good/1.png", image(50, 8, 6))
    write(tiny / "test/good/2.png", image(51, channels=1))
    kinds = dataset_info(load_dataset(tiny)).image_kinds
    assert [(k.width, k.height, k.channels, k.images) for k in kinds] == [
        (20, 10, 3, 7),
        (20, 10, 1, 2),
        (8, 6, 3, 1),
    ]


def test_images_are_not_decoded(tiny: Path) -> None:
    # A header is enough: what is wrong with the pixels is told by `dataset check`.
    path = tiny / "train/good/0.png"
    path.write_bytes(path.read_bytes()[:40])
    assert dataset_info(load_dataset(tiny)).images == 8


def test_json(tiny: Path) -> None:
    record = json.loads(json.dumps(dataset_info(load_dataset(tiny)).as_dict(), allow_nan=False))
    assert record["defect_class_count"] == 2
    assert record["classes"][1] == {
        "label": "dent",
        "train": 0,
        "test": 3,
        "images": 3,
        "with_mask": 3,
        "with_boxes": 0,
        "area_percent": {"min": 1.0, "median": 2.0, "max": 5.0},
        "regions": {"min": 1, "median": 2, "max": 2},
    }
    assert record["image_kinds"][0] == {"width": 20, "height": 10, "channels": 3, "images": 7}


def test_progress_is_shown_when_asked_for(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset_info(load_dataset(tiny))
    assert capsys.readouterr().err == ""
    dataset_info(load_dataset(tiny), show_progress=True)
    assert "8/8" in capsys.readouterr().err


def test_a_mask_of_another_size_is_named(tiny: Path) -> None:
    path = tiny / "ground_truth/dent/1_mask.png"
    write(path, mask()[:5])
    with pytest.raises(DataError, match="20x5") as caught:
        dataset_info(load_dataset(tiny))
    assert str(path) in str(caught.value)


def test_no_samples() -> None:
    info = dataset_info(Dataset(name="none", root=Path("none"), samples=()))
    assert (info.images, info.classes, info.image_kinds) == (0, (), ())
