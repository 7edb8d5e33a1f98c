"""Curves and the gallery: which regions are drawn, and no file without results."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from toolkit.data.types import Sample
from toolkit.methods.sam import plots
from toolkit.methods.sam.evaluate import Evaluated
from toolkit.methods.sam.targets import Target, region_targets

MODEL = Evaluated(None)  # type: ignore[arg-type]


@pytest.fixture
def targets(tmp_path: Path) -> list[Target]:
    samples = []
    for number in range(3):
        mask = np.zeros((40, 60), np.uint8)
        mask[5:20, 10 : 20 + number] = 255
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 60, 3), 90, np.uint8))
        cv2.imwrite(str(tmp_path / f"{number}_mask.png"), mask)
        samples.append(
            Sample(
                id=str(number), image=tmp_path / f"{number}.png", label="hole",
                masks=(tmp_path / f"{number}_mask.png",),
            )
        )  # fmt: skip
    return region_targets(samples)


def test_best_median_and_worst_are_shown(
    targets: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []

    def save(figure: Figure, path: Path, **options: object) -> None:
        titles.extend(axes.get_title() for axes in figure.axes)
        Path(path).write_bytes(b"png")

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(
        plots,
        "predict_kinds",
        lambda model, cache, target, kinds: {kinds[0]: (np.ones((40, 60), bool), 0.5)},
    )
    plots.save_gallery(
        MODEL, MODEL, None, targets, [0.5, 0.9, 0.1],
        kind="box", path=tmp_path / "gallery.png",
    )  # type: ignore[arg-type]  # fmt: skip
    assert [t for t in titles if t.endswith((": 0", ": 1", ": 2"))] == [
        "best: 1", "median: 0", "worst: 2"
    ]  # fmt: skip
    assert titles[0] == f"best, before {15 * 11 / 2400:.2f}"


def test_without_regions_or_epochs_nothing_is_drawn(tmp_path: Path) -> None:
    plots.save_gallery(
        MODEL,
        MODEL,
        None,
        [],
        [],
        kind="box",
        path=tmp_path / "gallery.png",
    )  # type: ignore[arg-type]
    plots.plot_training([], tmp_path / "training.png")
    assert not any(tmp_path.iterdir())


def test_epochs_without_validation_leave_gaps(tmp_path: Path) -> None:
    rows = [
        {"epoch": "0", "val_box_iou": "0.6", "val_click_iou": "0.2"},
        {"epoch": "1", "train_loss": "2.5", "train_iou": "0.4", "val_box_iou": ""},
        {"epoch": "2", "train_loss": "1.5", "train_iou": "0.5", "val_box_iou": "0.7"},
    ]
    plots.plot_training(rows, tmp_path / "training.png")
    assert cv2.imread(str(tmp_path / "training.png")) is not None
