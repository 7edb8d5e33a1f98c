"""Data that supervised methods were not made for: they train, or say in one line why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toolkit
from toolkit.errors import ToolkitError
from toolkit.inference.plot import save_picture

pytestmark = pytest.mark.slow

TINY = {
    "classifier": {"weights": "none", "image_size": 32, "finetune_epochs": 1},
    "yolo": {
        "weights": "none", "image_size": 64, "epochs": 1, "batch": 8,
        "ultralytics_args": {"plots": False},
    },
}  # fmt: skip


def _folder(root: Path, *, defects: int, sizes: int, grey: int) -> Path:
    """A category of 12 good images and some defects; every `grey`-th image has one channel."""
    rng = np.random.default_rng(0)
    counts = {"train/good": 12, "test/good": 6, "test/scratch": defects}
    number = 0
    for place, count in counts.items():
        for i in range(count):
            width, height = 60 + 11 * (number % sizes), 90 - 3 * (number % sizes)
            image = rng.integers(90, 120, (height, width, 3)).astype(np.uint8)
            if place == "test/scratch":
                mask = np.zeros((height, width), np.uint8)
                mask[20:40, 10:30] = 255
                image[mask > 0] = 240
                name = root / f"ground_truth/scratch/{i:03d}_mask.png"
                save_picture(np.repeat(mask[..., None], 3, 2), name)
            path = root / place / f"{i:03d}.png"
            save_picture(image, path)
            if grey and number % grey == 0:
                from PIL import Image

                Image.open(path).convert("L").save(path)
            number += 1
    return root


@pytest.mark.parametrize("method", ["classifier", "yolo"])
@pytest.mark.parametrize(
    ("made", "refusal"),
    [
        ({"defects": 10, "sizes": 10, "grey": 0}, {}),
        (
            {"defects": 10, "sizes": 1, "grey": 3},
            {"classifier": "grayscale, but .* in color; convert all to one kind"},
        ),
        (
            {"defects": 2, "sizes": 1, "grey": 0},
            dict.fromkeys(TINY, "class scratch has 2 different images, too few for 5 folds"),
        ),
    ],
)
def test_it_trains_or_says_why_not(
    method: str, made: dict[str, int], refusal: dict[str, str], tmp_path: Path
) -> None:
    folder = _folder(tmp_path / "odd", **made)
    settings = {**TINY[method], "runs": tmp_path / "runs"}
    if method in refusal:
        with pytest.raises(ToolkitError, match=refusal[method]) as error:
            toolkit.train(method, folder, **settings)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)
    else:
        run = toolkit.train(method, folder, **settings)  # type: ignore[arg-type]
        assert run.finished
        assert 0 <= run.metrics()["image"]["auroc"] <= 1
