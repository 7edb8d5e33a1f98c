"""Decoding: each kind of mask file gives the same pixels; damaged files are named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from toolkit.data import decoding
from toolkit.data.images import (
    image_size,
    is_image_file,
    read_mask,
    read_mask_values,
    read_rgb,
    read_truth,
    whole_image_size,
)
from toolkit.data.types import Sample
from toolkit.errors import DataError

TRUTH = np.zeros((30, 40), dtype=bool)
TRUTH[5:12, 8:33] = True
TRUTH[20, 3] = True


def levels(value: int, dtype: type = np.uint8) -> NDArray[np.generic]:
    return (TRUTH * value).astype(dtype)


def palette(index: int) -> Image.Image:
    image = Image.fromarray(levels(index), "L")
    image = image.convert("P")
    image.putdata(levels(index).ravel().tolist())
    image.putpalette([0, 0, 0, 38, 38, 38, 0, 0, 200] + [0] * 759)
    return image


def layers(*parts: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(np.dstack(parts).astype(np.uint8))


OPAQUE = np.full(TRUTH.shape, 255, np.uint8)

KINDS: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "0/255": ("m.png", lambda: Image.fromarray(levels(255))),
    "0/1": ("m.png", lambda: Image.fromarray(levels(1))),
    # OpenCV in colour mode reads palette index 1 as grey 38
    "palette index 1": ("m.png", lambda: palette(1)),
    # a palette index whose colour has no red
    "palette index 2": ("m.png", lambda: palette(2)),
    # read as 8 bits, this is 0
    "16-bit value 1": ("m.png", lambda: Image.fromarray(levels(1, np.uint16))),
    "16-bit": ("m.png", lambda: Image.fromarray(levels(65535, np.uint16))),
    "1-bit": ("m.png", lambda: Image.fromarray(TRUTH)),
    "rgb": ("m.png", lambda: layers(*[levels(255)] * 3)),
    "only blue": ("m.png", lambda: layers(levels(0), levels(0), levels(9))),
    # an opaque alpha channel says nothing
    "opaque rgba": ("m.png", lambda: layers(*[levels(255)] * 3, OPAQUE)),
    "grey with alpha": ("m.png", lambda: Image.fromarray(levels(255)).convert("LA")),
    "tiff": ("m.tif", lambda: Image.fromarray(levels(255))),
    "upper case": ("M.TIFF", lambda: Image.fromarray(levels(255))),
    "1-bit tiff": ("m.tif", lambda: Image.fromarray(TRUTH)),
    "16-bit tiff": ("m.tif", lambda: Image.fromarray(levels(1, np.uint16))),
    "bmp": ("m.bmp", lambda: Image.fromarray(levels(255))),
    "unicode and space": ("má sk 掩.png", lambda: Image.fromarray(levels(255))),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quick", [True, False], ids=["any decoder", "without kornia_rs"])
def test_every_kind_of_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, quick: bool
) -> None:
    if not quick:
        monkeypatch.setattr(decoding, "_kornia", lambda: None)
    name, make = KINDS[kind]
    make().save(tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.dtype == np.bool_
    assert (mask == TRUTH).all()
    assert image_size(tmp_path / name)[:2] == (40, 30)


def test_jpeg_masks_are_cut_at_127(tmp_path: Path) -> None:
    blob = np.zeros((64, 64), np.uint8)
    blob[13:45, 13:45] = 255
    Image.fromarray(blob).save(tmp_path / "m.JPG", "JPEG", quality=50)
    assert (read_mask_values(tmp_path / "m.JPG") > 0).sum() > 1024  # it rings
    assert (read_mask(tmp_path / "m.JPG") == (blob > 0)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_survive(tmp_path: Path, dtype: type) -> None:
    values = np.arange(1200).reshape(30, 40).astype(dtype)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert (read_mask_values(tmp_path / "m.png") == values).all()


@pytest.mark.parametrize("quick", [True, False], ids=["any decoder", "without kornia_rs"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_read_rgb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, quick: bool) -> None:
    if not quick:
        monkeypatch.setattr(decoding, "_kornia", lambda: None)
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "i.png")
    found = read_rgb(tmp_path / "i.png")
    assert found.shape == (30, 40, 3)
    assert found.flags.c_contiguous
    assert (found == np.asarray(image.convert("RGB"))).all()


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (40, 30)).save(tmp_path / "i.jpg", exif=exif)
    assert read_rgb(tmp_path / "i.jpg").shape == (30, 40, 3)
    assert image_size(tmp_path / "i.jpg") == (40, 30, 3)


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


GREY = png(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)))
COLOUR = png(
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
)


@pytest.mark.parametrize("quick", [True, False], ids=["any decoder", "without kornia_rs"])
@pytest.mark.parametrize(
    "data",
    [b"", b"text", GREY[:20], GREY[:3000], GREY[:-20], COLOUR[:3000], COLOUR[:-20]],
    ids=["empty", "text", "head", "half", "no end", "half colour", "no end colour"],
)
@pytest.mark.parametrize("read", [read_mask, read_rgb])
def test_damaged_files_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    quick: bool,
    read: Callable[[Path], object],
) -> None:
    if not quick:
        monkeypatch.setattr(decoding, "_kornia", lambda: None)
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"bad\.png: not a readable"):
        read(path)


def test_whole_image_size(tmp_path: Path) -> None:
    path = tmp_path / "i.png"
    path.write_bytes(COLOUR)
    assert whole_image_size(path) == (90, 90, 3)
    path.write_bytes(COLOUR + b"behind the end")
    assert whole_image_size(path) == (90, 90, 3)
    path.write_bytes(COLOUR[:-5])
    assert image_size(path) == (90, 90, 3)
    with pytest.raises(DataError, match=r"cut short"):
        whole_image_size(path)


@pytest.mark.parametrize("cut", [1, 2, 40, 1000])
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_other_formats_that_were_cut_short(tmp_path: Path, suffix: str, cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path / f"i{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for behind in (b"", b"what a camera adds"):
        path.write_bytes(whole + behind)
        assert whole_image_size(path) == (80, 60, 3)
    path.write_bytes(whole[:-cut])
    with pytest.raises(DataError, match=r"not a readable image"):
        whole_image_size(path)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photograph(tmp_path: Path) -> None:
    photograph = Image.fromarray(np.zeros((60, 80, 3), np.uint8))
    small = io.BytesIO()
    photograph.resize((8, 6)).save(small, "JPEG")
    path = tmp_path / "i.jpg"
    photograph.save(path, comment=small.getvalue())  # as in EXIF: a JPEG within the header
    assert whole_image_size(path) == (80, 60, 3)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"cut short"):
        whole_image_size(path)


@pytest.mark.parametrize("read", [read_mask, read_rgb, image_size])
def test_missing_files_are_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"none\.png"):
        read(tmp_path / "none.png")


def test_truth_is_the_union(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "i.png")
    one, two = TRUTH.copy(), TRUTH.copy()
    one[:15], two[15:] = False, False
    Image.fromarray(one).save(tmp_path / "a.png")
    Image.fromarray(two).save(tmp_path / "b.png")
    masks = (tmp_path / "a.png", tmp_path / "b.png")
    assert (read_truth(Sample("i", tmp_path / "i.png", "x", masks)) == TRUTH).all()
    assert not read_truth(Sample("i", tmp_path / "i.png", "good")).any()
    Image.new("L", (41, 30)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="41x30"):
        read_truth(Sample("i", tmp_path / "i.png", "x", masks))


@pytest.mark.parametrize(
    ("name", "expected"), [("a.png", True), ("a.JPeG", True), ("a.TIF", True), ("a.txt", False)]
)
def test_is_image_file(name: str, expected: bool) -> None:
    assert is_image_file(Path(name)) is expected
