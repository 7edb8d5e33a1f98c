"""Crops for training, detection in tiles, and the numbers that settings leave open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.methods.yolo.small import NewRun, fit
from toolkit.data.images import read_rgb
from toolkit.data.regions import regions_of
from toolkit.data.splits import Split
from toolkit.errors import ConfigError
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.yolo import budget
from toolkit.methods.yolo.settings import YoloSettings
from toolkit.methods.yolo.tiles import MIN_VISIBLE, crops_with_defects
from toolkit.methods.yolo.training_data import write_training_data


@given(st.data(), st.integers(8, 64))
def test_crops_show_their_defects(data: st.DataObject, side: int) -> None:
    mask = np.zeros((60, 90), np.bool_)
    for _ in range(data.draw(st.integers(1, 3))):
        x, y = data.draw(st.integers(0, 85)), data.draw(st.integers(0, 55))
        mask[y : y + data.draw(st.integers(1, 20)), x : x + data.draw(st.integers(1, 20))] = True
    image = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
    whole = regions_of(mask)
    for crop, shown in crops_with_defects(image, mask, side, np.random.default_rng(0)):
        assert crop.shape[:2] == (min(side, 60), min(side, 90)) == shown.shape
        np.testing.assert_array_equal(crop[..., 0] > 0, shown)
        assert shown.sum() >= MIN_VISIBLE * min(r.area for r in whole)
    if len(whole) == 1 and max(np.ptp(np.nonzero(mask), axis=1)) < side:
        ((_, shown),) = crops_with_defects(image, mask, side, np.random.default_rng(0))
        assert shown.sum() == mask.sum()  # what fits is whole


@pytest.mark.parametrize(
    ("sides", "wanted", "bounded"),
    [
        ([(300.0, 900)], 64, 320),  # large defects
        ([(40.0, 1000)], 416, 416),  # 16 pixels of the input
        ([(10.0, 1000)], 1024, 640),
        ([(2.0, 250)], 256, 320),
        ([(30.0, 1000)] + [(300.0, 1000)] * 30, 64, 320),  # one small one of many
    ],
)
def test_the_image_size_follows_the_smaller_defects(
    sides: list[tuple[float, int]], wanted: int, bounded: int
) -> None:
    assert budget.wanted_size(sides) == wanted
    assert budget.bounded_size(sides, images=40, epochs=30) == bounded
    assert budget.bounded_size(sides, images=400, epochs=30) == 320  # would take too long


def test_few_images_get_more_epochs() -> None:
    found = [budget.epochs_for(n, 16) for n in (10, 60, 75, 123, 5000)]
    assert found == [100, 38, 30, 30, 30]


def test_tiles_and_test_time_augmentation_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="choose one"):
        YoloSettings(tile=True, tta=True)


def test_training_images_of_tiles(split: Split, tmp_path: Path) -> None:
    settings = YoloSettings(image_size=32, tile=True, background_images="0")
    data = write_training_data(split, tmp_path / "data", settings, full_size=96, seed=0)
    images = sorted((data.parent / "images/train").iterdir())
    crops = [p for p in images if p.name.startswith("crop__")]
    good = [p for p in images if p.name.startswith("good__")]
    assert crops
    assert good
    for image in (*crops, *good):
        label = data.parent / f"labels/train/{image.stem}.txt"
        assert max(read_rgb(image).shape[:2]) == 32
        assert bool(label.read_text()) == (image in crops)
    assert not list((data.parent / "images/val").glob("crop__*"))  # validation sees whole images


@pytest.mark.slow
@pytest.mark.parametrize("tile", [False, True])
def test_what_was_chosen_is_stored_and_used(split: Split, new_run: NewRun, tile: bool) -> None:
    method, run = new_run("yolo", image_size=0 if not tile else 64, epochs=1, tile=tile)
    fit(method, run, split)
    chosen = run.metadata["image_size"]
    assert chosen == (64 if tile else 320)
    predictor = method.load(run)
    assert predictor.image_size == chosen
    assert predictor.full_size == run.metadata["full_size"]
    assert bool(predictor.full_size) == tile
    (prediction,) = predict_samples(predictor, split.test[:1])
    assert prediction.boxes is not None


@pytest.mark.slow
def test_a_network_whose_head_needs_no_suppression(split: Split, new_run: NewRun) -> None:
    method, run = new_run("yolo", model="yolo26n", epochs=1)
    fit(method, run, split)
    (prediction,) = predict_samples(method.load(run), split.test[:1])
    assert prediction.boxes is not None
    assert set(prediction.boxes.labels) <= set(split.dataset.classes)
