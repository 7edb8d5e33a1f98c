"""Trivial features that give labels away are found, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from toolkit.data import shortcuts
from toolkit.data.layouts import load_dataset
from toolkit.data.shortcuts import find_shortcuts, warnings_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Change = Callable[["NDArray[np.uint8]", bool], "NDArray[np.uint8]"]


def make(root: Path, change: Change, *, suffix: str = ".png", bad_suffix: str = ".png") -> Path:
    """Noisy grey images; each defect has a black square, with its mask."""
    rng = np.random.default_rng(0)
    for index in range(40):
        is_bad = index % 2 == 1
        light = rng.normal(120, 6)
        image = np.clip(rng.normal(light, 8, (48, 48, 3)), 0, 255).astype(np.uint8)
        image = change(image, is_bad)
        folder = root / ("bad" if is_bad else "good")
        folder.mkdir(parents=True, exist_ok=True)
        if is_bad:
            mask = np.zeros((48, 48), np.uint8)
            mask[20:28, 20:28] = 255
            image[mask > 0] = 0
            (root / "masks/bad").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / f"masks/bad/{index}.png"), mask)
        cv2.imwrite(str(folder / f"{index}{bad_suffix if is_bad else suffix}"), image)
    return root


def darker(image: NDArray[np.uint8], is_bad: bool) -> NDArray[np.uint8]:
    return image if is_bad else (image * 0.8).astype(np.uint8)


def blurred(image: NDArray[np.uint8], is_bad: bool) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(image, (5, 5), 0), np.uint8) if is_bad else image


def cropped(image: NDArray[np.uint8], is_bad: bool) -> NDArray[np.uint8]:
    return image if is_bad else image[:44]


@pytest.mark.parametrize(
    ("change", "bad_suffix", "feature"),
    [
        (darker, ".png", "brightness of the border"),
        (blurred, ".png", "sharpness"),
        (cropped, ".png", "height"),
        (lambda image, is_bad: image, ".bmp", "file format"),
    ],
)
def test_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    bad_suffix: str,
    feature: str,
) -> None:
    monkeypatch.setattr(shortcuts, "_MOST_NAMED", 99)
    found = find_shortcuts(load_dataset(make(tmp_path, change, bad_suffix=bad_suffix)))
    assert feature in [one.feature for one in found]
    assert all((one.first, one.second) == ("good", "defects") for one in found)
    assert all(one.low > 0.7 for one in found)
    assert feature.split(" ")[0] in " ".join(map(str, found))


def test_a_defect_is_no_shortcut(tmp_path: Path) -> None:
    dataset = load_dataset(make(tmp_path, lambda image, is_bad: image))
    assert find_shortcuts(dataset) == ()
    assert warnings_of(dataset) == ()


def test_train_and_test(tmp_path: Path) -> None:
    make(tmp_path / "made", darker)
    for index, path in enumerate(sorted((tmp_path / "made/good").iterdir())):
        image = cv2.imread(str(path))
        part = "train" if index % 2 else "test"
        (tmp_path / f"set/{part}/good").mkdir(parents=True, exist_ok=True)
        light = 40 if part == "test" else 0
        cv2.imwrite(str(tmp_path / f"set/{part}/good/{path.name}"), image + np.uint8(light))
    found = find_shortcuts(load_dataset(tmp_path / "set"))
    assert {(one.first, one.second) for one in found} == {("train/good", "test/good")}


def test_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_shortcuts(load_dataset(make(tmp_path, darker)))
    monkeypatch.setattr(shortcuts, "measure", None)  # nothing is measured again
    assert find_shortcuts(load_dataset(tmp_path)) == first


def test_defects_that_nobody_located_do_not_count(tmp_path: Path) -> None:
    """The black square changes sharpness and brightness, and is no shortcut."""
    make(tmp_path, lambda image, is_bad: image)
    shutil.rmtree(tmp_path / "masks")
    assert find_shortcuts(load_dataset(tmp_path)) == ()


def test_few_images_are_not_compared(tmp_path: Path) -> None:
    make(tmp_path, darker)
    for path in sorted((tmp_path / "good").iterdir())[9:]:
        path.unlink()
    assert find_shortcuts(load_dataset(tmp_path)) == ()
