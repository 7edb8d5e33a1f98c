"""Sources of images: order, names, and one clear error for each wrong source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from toolkit.errors import DataError
from toolkit.inference.sources import as_rgb, iterate_source

GREY = np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)
RGB = np.stack([GREY, GREY + 1, GREY + 2], axis=2)


def image_at(path: Path, image: np.ndarray = RGB) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def names(source: Any) -> list[str]:
    return [image.name for image in iterate_source(source)]


def test_files_and_folders_keep_their_order_and_their_subfolders(tmp_path: Path) -> None:
    single = image_at(tmp_path / "z.png")
    for name in ("a.jpg", "b.PNG", "deep/c.bmp", "deep/a.jpg"):
        image_at(tmp_path / "folder" / name)
    (tmp_path / "folder/notes.txt").write_text("no image")
    assert names([single, tmp_path / "folder"]) == [
        "z.png", "folder/a.jpg", "folder/b.PNG", "folder/deep/a.jpg", "folder/deep/c.bmp",
    ]  # fmt: skip


def test_patterns(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.jpg", "deep/4.png"):
        image_at(tmp_path / name)
    assert names(f"{tmp_path}/*.png") == ["1.png", "2.png"]
    assert names(f"{tmp_path}/**/*.png") == ["1.png", "2.png", "deep/4.png"]


def test_equal_names_stay_apart(tmp_path: Path) -> None:
    for name in ("day1/good/0.png", "day2/good/0.png"):
        image_at(tmp_path / name)
    expected = ["day1/good/0.png", "day2/good/0.png"]
    assert names(tmp_path) == expected
    assert names(f"{tmp_path}/*/good/*.png") == expected
    assert names([tmp_path / "day1", str(tmp_path / "day2")]) == expected
    assert names([tmp_path / "day1/good/0.png", tmp_path / "day2/../day2/good/0.png"]) == expected
    assert names([tmp_path / "day1/../day1"]) == ["good/0.png"]


def test_a_generator_is_read_lazily(tmp_path: Path) -> None:
    asked = []

    def images() -> Any:
        for i in range(3):
            asked.append(i)
            yield RGB

    source = iterate_source(images())
    assert next(source).name == "image0"
    assert asked == [0]
    assert [one.name for one in source] == ["image1", "image2"]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: str(path),
        lambda path: path,
        lambda path: RGB,
        lambda path: Image.fromarray(RGB),
        lambda path: [RGB],
        lambda path: (one for one in [path]),
    ],
    ids=["text", "path", "array", "pil", "list", "generator"],
)
def test_every_kind_of_source_gives_the_same_pixels(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    (image,) = iterate_source(make(image_at(tmp_path / "a.png")))
    pixels = image.read()
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_pil_images_and_files_give_the_same_pixels(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    picture.save(tmp_path / "a.png")
    (array,), (file,) = iterate_source(picture), iterate_source(tmp_path / "a.png")
    np.testing.assert_array_equal(array.read(), file.read())


def test_grey_arrays_are_repeated_over_the_channels() -> None:
    rgb = as_rgb(GREY)
    assert rgb.shape == (20, 30, 3)
    assert (rgb == GREY[..., None]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing.png", "no such file or folder"),
        (lambda p: p, "no images there"),
        (lambda p: f"{p}/*.png", "no image matches"),
        (lambda p: [], "holds no images"),
        (lambda p: iter(()), "holds no images"),
        (lambda p: RGB.astype(np.float32), "dtype float32"),
        (lambda p: RGB[..., :2], r"shape \(20, 30, 2\)"),
        (lambda p: np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (lambda p: np.zeros((2, 4, 4, 3), np.uint8), r"shape \(2, 4, 4, 3\)"),
        (lambda p: Image.new("CMYK", (4, 4)), "mode CMYK"),
        (lambda p: 7, "type int"),
    ],
    ids=["missing", "empty-folder", "pattern", "list", "generator", "float", "channels", "no-rows",
         "batch", "cmyk", "number"],
)  # fmt: skip
def test_wrong_sources(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        list(iterate_source(make(tmp_path)))
