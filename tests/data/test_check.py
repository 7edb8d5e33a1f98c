"""Every fault of a data set is found, alone and among others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.data.check import Finding, check_dataset
from toolkit.data.layouts import load_dataset
from toolkit.errors import DataError

TRAIN, GOOD = "train/good", "test/good"
SMALL, MASKS = "test/broken_small", "ground_truth/broken_small"


@pytest.fixture
def data(sample_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample_dir, tmp_path / "data")


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert cv2.imwrite(str(path), change(pixels))


def recompress(source: Path, target: Path) -> None:
    """Store the same pixels in other bytes."""
    pixels = cv2.imread(str(source))
    assert cv2.imwrite(str(target), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert source.read_bytes() != target.read_bytes()


def made(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


FAULTS = [
    # cut short, near the end and in the middle; a bit turned over; no image at all
    (lambda d: cut(d / TRAIN / "000.png", 0.99), [("unreadable", f"{TRAIN}/000.png")]),
    (lambda d: cut(d / TRAIN / "000.png", 0.5), [("unreadable", f"{TRAIN}/000.png")]),
    (lambda d: flip(d / GOOD / "000.png"), [("unreadable", f"{GOOD}/000.png")]),
    (lambda d: made(d / GOOD / "000.png", b""), [("unreadable", f"{GOOD}/000.png")]),
    (lambda d: made(d / GOOD / "x.jpg", b"JFIF"), [("unreadable", f"{GOOD}/x.jpg")]),
    # a link to nothing
    (lambda d: (d / GOOD / "x.png").symlink_to(d / "no.png"), [("unreadable", f"{GOOD}/x.png")]),
    # the same of a mask
    (lambda d: cut(d / MASKS / "000_mask.png", 0.5), [("unreadable", f"{MASKS}/000_mask.png")]),
    (lambda d: flip(d / MASKS / "000_mask.png"), [("unreadable", f"{MASKS}/000_mask.png")]),
    # a defect image without a mask, and a mask without its image
    (lambda d: (d / MASKS / "001_mask.png").unlink(), [("unpaired", f"{SMALL}/001.png")]),
    (lambda d: (d / SMALL / "001.png").unlink(), [("unpaired", f"{MASKS}/001_mask.png")]),
    # a mask of a good image, and masks of a type that has no images
    (
        lambda d: shutil.copytree(d / MASKS, d / "ground_truth/good"),
        [("unpaired", f"ground_truth/good/{i:03d}_mask.png") for i in range(6)],
    ),
    # two images of one name share a mask
    (
        lambda d: assert_written(d / SMALL / "000.jpg", 1),
        [("unpaired", f"{MASKS}/000_mask.png")],
    ),
    # a mask of another size; a turned one
    (
        lambda d: rewrite(d / MASKS / "002_mask.png", lambda m: m[:50]),
        [("wrong-size", f"{MASKS}/002_mask.png")],
    ),
    # a mask without a pixel
    (
        lambda d: rewrite(d / MASKS / "003_mask.png", np.zeros_like),
        [("empty-mask", f"{MASKS}/003_mask.png")],
    ),
    # one picture twice, byte by byte and stored anew
    (
        lambda d: shutil.copy(d / TRAIN / "003.png", d / TRAIN / "900.png"),
        [("duplicate", f"{TRAIN}/900.png")],
    ),
    (
        lambda d: recompress(d / TRAIN / "003.png", d / TRAIN / "900.png"),
        [("duplicate", f"{TRAIN}/900.png")],
    ),
    # one picture in train and test
    (
        lambda d: recompress(d / TRAIN / "003.png", d / GOOD / "900.png"),
        [("leak", f"{GOOD}/900.png")],
    ),
    # one picture under two labels, in one part and in both
    (
        lambda d: shutil.copy(d / SMALL / "000.png", d / GOOD / "900.png"),
        [("two-labels", f"{GOOD}/900.png")],
    ),
    (
        lambda d: shutil.copy(d / SMALL / "000.png", d / TRAIN / "900.png"),
        [("leak", f"{SMALL}/000.png"), ("two-labels", f"{TRAIN}/900.png")],
    ),
    # an image of one colour
    (
        lambda d: rewrite(d / GOOD / "004.png", lambda i: np.full_like(i, 7)),
        [("constant", f"{GOOD}/004.png")],
    ),
    # files and folders that nothing reads
    (lambda d: made(d / "test/.DS_Store"), [("stray", "test/.DS_Store")]),
    (lambda d: made(d / GOOD / "Thumbs.db"), [("stray", f"{GOOD}/Thumbs.db")]),
    (lambda d: made(d / TRAIN / "._000.png"), [("stray", f"{TRAIN}/._000.png")]),
    (lambda d: made(d / "test/loose.png"), [("stray", "test/loose.png")]),
    (lambda d: made(d / MASKS / "notes.txt"), [("stray", f"{MASKS}/notes.txt")]),
    (lambda d: made(d / "more/a/b.png"), [("stray", "more")]),
    # what may lie beside the images
    (lambda d: [made(d / n) for n in ("license.txt", "README.md", "LICENSE", ".git/x")], []),
    (lambda d: (d / "test/empty").mkdir(), []),
]


def assert_written(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


def found(findings: list[Finding], root: Path) -> list[tuple[str, str]]:
    return sorted((f.kind, f.path.relative_to(root).as_posix()) for f in findings)


@pytest.mark.parametrize(("spoil", "expected"), FAULTS)
def test_one_fault(
    spoil: Callable[[Path], object], expected: list[tuple[str, str]], data: Path
) -> None:
    spoil(data)
    assert found(check_dataset(data), data) == sorted(expected)


def test_nothing_is_found_in_the_sample(sample_dir: Path) -> None:
    assert check_dataset(sample_dir) == []
    assert check_dataset(load_dataset(sample_dir)) == []
    assert check_dataset(str(sample_dir)) == []


def test_all_faults_at_once_and_errors_first(data: Path) -> None:
    cut(data / TRAIN / "000.png", 0.5)
    cut(data / MASKS / "000_mask.png", 0.5)
    cut(data / MASKS / "001_mask.png", 0.5)
    (data / MASKS / "002_mask.png").unlink()
    rewrite(data / MASKS / "003_mask.png", lambda m: 0 * m[:9])  # of another size, and empty
    recompress(data / TRAIN / "003.png", data / GOOD / "900.png")
    made(data / "test/.DS_Store")
    findings = check_dataset(data)
    assert found(findings, data) == sorted(
        [
            ("unreadable", f"{TRAIN}/000.png"),
            ("unreadable", f"{MASKS}/000_mask.png"),
            ("unreadable", f"{MASKS}/001_mask.png"),
            ("unpaired", f"{SMALL}/002.png"),
            ("wrong-size", f"{MASKS}/003_mask.png"),
            ("empty-mask", f"{MASKS}/003_mask.png"),
            ("leak", f"{GOOD}/900.png"),
            ("stray", "test/.DS_Store"),
        ]
    )
    severities = [f.severity for f in findings]
    assert severities == sorted(severities)
    assert severities.count("warning") == 1
    assert [f.kind for f in findings][:3] == ["unreadable"] * 3


def test_every_message_names_a_mend_in_one_line_without_the_path(data: Path) -> None:
    for spoil, _ in FAULTS[:4]:
        spoil(data)
    made(data / "test/.DS_Store")
    findings = check_dataset(data)
    assert len(findings) == 3
    for finding in findings:
        assert ";" in finding.message
        assert "\n" not in finding.message
        assert str(finding.path) not in finding.message


def test_three_copies(data: Path) -> None:
    for name in ("900.png", "901.png"):
        shutil.copy(data / TRAIN / "003.png", data / TRAIN / name)
        shutil.copy(data / TRAIN / "003.png", data / GOOD / name)
    assert found(check_dataset(data), data) == [
        ("duplicate", f"{GOOD}/901.png"),
        ("duplicate", f"{TRAIN}/900.png"),
        ("duplicate", f"{TRAIN}/901.png"),
        ("leak", f"{GOOD}/900.png"),
        ("leak", f"{GOOD}/901.png"),
    ]


def test_several_masks_of_one_image_are_each_checked(data: Path) -> None:
    shutil.copy(data / MASKS / "000_mask.png", data / MASKS / "000_mask_1.png")
    assert check_dataset(data) == []
    rewrite(data / MASKS / "000_mask_1.png", np.zeros_like)
    assert found(check_dataset(data), data) == [("empty-mask", f"{MASKS}/000_mask_1.png")]


def test_mask_size_is_not_judged_where_the_image_is_unreadable(data: Path) -> None:
    cut(data / SMALL / "000.png", 0.5)
    assert found(check_dataset(data), data) == [("unreadable", f"{SMALL}/000.png")]


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".tif", ".webp"])
def test_other_formats_cut_short(suffix: str, data: Path) -> None:
    path = data / GOOD / f"900{suffix}"
    assert_written(path, 5)
    assert check_dataset(data) == []
    cut(path, 0.6)
    assert found(check_dataset(data), data) == [("unreadable", f"{GOOD}/900{suffix}")]


def test_a_layout_with_room_for_other_files(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "plain"
    shutil.copytree(data / SMALL, root / "images")
    shutil.copytree(data / MASKS, root / "masks")
    made(root / "notes/labels.csv")
    assert check_dataset(root) == []
    (root / "images/000.png").unlink()
    assert found(check_dataset(root), root) == [("unpaired", "masks/000_mask.png")]


def test_progress_is_shown_when_asked_for(
    sample_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_dataset(sample_dir)
    assert capsys.readouterr().err == ""
    check_dataset(sample_dir, show_progress=True)
    assert "36/36" in capsys.readouterr().err


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=str(folder)):
            check_dataset(folder)
