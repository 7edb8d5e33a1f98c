"""Files that would hang, fill the memory or reach the terminal are refused in one line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.data import decoding, images
from toolkit.data.check import check_dataset
from toolkit.data.images import image_size, read_mask, read_rgb, whole_image_size
from toolkit.data.layouts import load_dataset
from toolkit.data.types import file_sha256
from toolkit.errors import ConfigError, DataError, ToolkitError, printable

READERS = [read_rgb, read_mask, image_size, whole_image_size]
Read = Callable[[Path], object]


def bomb(width: int, height: int, *, bits: int = 1) -> bytes:
    """Return a PNG of zeros of any size in a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    )


def encoded(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    smooth = Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    smooth.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("read", [*READERS, file_sha256])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, read: Read, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(DataError, match="not a regular file"):
        read(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("bits", [1, 8, 16])
@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 12_000)])
def test_bombs_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Read,
    bits: int,
    size: tuple[int, int],
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(bomb(*size, bits=bits))
    for kornia in (decoding._kornia(), None):
        monkeypatch.setattr(decoding, "_kornia", lambda found=kornia: found)
        with pytest.raises(DataError, match="TOOLKIT_MAX_PIXELS") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("read", READERS)
def test_the_limit_can_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, read: Read
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(kind))
    read(path)
    monkeypatch.setenv("TOOLKIT_MAX_PIXELS", str(400 * 300 - 1))
    with pytest.raises(DataError, match="400x300 pixels"):
        read(path)
    monkeypatch.setenv("TOOLKIT_MAX_PIXELS", "400 x 300")
    with pytest.raises(ConfigError, match="TOOLKIT_MAX_PIXELS"):
        read(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("length", [1, 8, 16, 20, 24, 26, 32])
def test_a_png_of_a_few_bytes(tmp_path: Path, read: Read, length: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded("PNG")[:length])
    with pytest.raises(DataError, match="not a readable"):
        read(path)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("read", [read_rgb, read_mask, lambda p: whole_image_size(p, decode=True)])
def test_images_that_end_too_soon(tmp_path: Path, kind: str, keep: float, read: Read) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    data = encoded(kind)
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="not a readable"):
        read(path)


@pytest.mark.parametrize("read", [read_rgb, lambda p: whole_image_size(p, decode=True)])
def test_a_jpeg_with_damage_in_the_middle(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "x.jpg"
    data = bytearray(encoded("JPEG", quality=90))
    middle = slice(len(data) // 2, len(data) // 2 + 400)
    data[middle] = bytes(value ^ 0x5A for value in data[middle])
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a readable"):
        read(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "WEBP"])
def test_pixels_are_those_of_opencv(tmp_path: Path, mode: str, kind: str) -> None:
    import cv2

    path = tmp_path / f"x.{kind.lower()}"
    image = Image.open(io.BytesIO(encoded("PNG")))
    try:
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(path, kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} holds no {mode}")
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert (read_rgb(path) == bgr[..., ::-1]).all()


def test_check_does_not_hang(sample_dir: Path, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(sample_dir, tmp_path / "data")
    os.mkfifo(root / "train/good/pipe.png")
    (root / "test/good/zero.png").symlink_to("/dev/zero")
    (root / "test/good/bomb.png").write_bytes(bomb(50_000, 50_000))
    found = {f.path.name: f.message for f in check_dataset(root)}
    assert set(found) == {"pipe.png", "zero.png", "bomb.png"}
    assert "not a regular file" in found["pipe.png"]
    assert "TOOLKIT_MAX_PIXELS" in found["bomb.png"]


def test_a_name_that_is_not_utf8(sample_dir: Path, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(sample_dir, tmp_path / "data")
    source = root / "train/good/000.png"
    shutil.copy(source, os.fsencode(source.parent) + b"/b\xffd.png")
    with pytest.raises(DataError, match="not UTF-8") as caught:
        load_dataset(root)
    str(caught.value).encode()
    assert r"b\xffd.png" in str(caught.value)
    command = [sys.executable, "-m", "toolkit", "convert", "--to", "yolo", "--data", str(root)]
    if not (Path(images.__file__).parent.parent / "__main__.py").is_file():
        command[1:3] = ["-c", "from toolkit.cli.main import main; main()"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain name.png", "plain name.png"),
        ("ünï 掩.png", "ünï 掩.png"),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("b\udcffd", r"b\xffd"),
        (Path("a\tb"), r"a\tb"),
        ("\u202egnp", r"\u202egnp"),
    ],
)
def test_printable(name: object, expected: str) -> None:
    assert printable(name) == expected


def test_control_characters_stay_out_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31mb.png"
    path.write_bytes(b"no image")
    for read in (*READERS, file_sha256):
        with pytest.raises(ToolkitError) as caught:
            read(path if read is not file_sha256 else path.with_name("gone\n.png"))
        assert str(caught.value).isprintable()
