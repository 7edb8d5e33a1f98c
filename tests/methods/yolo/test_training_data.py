"""Checks of a split, and the files that Ultralytics trains on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from toolkit.data.dataset_cards import class_phrases
from toolkit.data.images import read_rgb, read_truth
from toolkit.data.regions import regions_of
from toolkit.data.splits import Split
from toolkit.data.types import Dataset, Sample
from toolkit.errors import DataError
from toolkit.methods.yolo.settings import YoloSettings
from toolkit.methods.yolo.training_data import (
    check_split,
    flips_and_rotation,
    write_training_data,
)


def test_a_supervised_split_is_fit_for_training(split: Split) -> None:
    assert check_split(split, world=True) is None  # nothing is raised


def test_parts_without_boxes_are_refused(split: Split) -> None:
    good = tuple(s for s in split.train if not s.is_defect)
    for changes, message in (
        ({"train": ()}, "training part is empty"),
        ({"val": ()}, "validation part is empty"),
        ({"train": good}, "no boxes in the training part"),
        ({"val": good}, "no boxes in the validation part"),
    ):
        with pytest.raises(DataError, match=message):
            check_split(dataclasses.replace(split, **changes), world=False)


def _renamed(split: Split, names: list[str]) -> Split:
    samples = tuple(
        Sample(id=f"{i}.png", image=Path(f"{i}.png"), label=name, masks=(Path("m.png"),))
        for i, name in enumerate(names)
    )
    dataset = Dataset(name="renamed", root=split.dataset.root, samples=samples)
    return dataclasses.replace(split, dataset=dataset, train=samples, val=samples, test=())


def test_class_names_that_only_yolo_world_cannot_use(split: Split) -> None:
    with pytest.raises(DataError, match="background_prompt=crack"):
        check_split(_renamed(split, ["crack"]), world=True, background="crack")
    with pytest.raises(DataError, match="'no/thing' has a '/'"):
        check_split(_renamed(split, ["crack"]), world=True, background="no/thing")
    for names, message in (
        (["crack", "dirt/dust"], "'dirt/dust' has a '/'"),
        ([f"type{i:02d}" for i in range(81)], "81 classes"),
    ):
        renamed = _renamed(split, names)
        check_split(renamed, world=False)
        with pytest.raises(DataError, match=message):
            check_split(renamed, world=True)


def _write(split: Split, out: Path, *, background: str = "", **values: Any) -> Path:
    none = {"background_images": "0", "copy_paste_per_image": 0, "image_size": 512}
    settings = YoloSettings(**{**none, **values})
    return write_training_data(split, out, settings, seed=0, background=background)


def _boxes(label: Path) -> np.ndarray:
    """Boxes x0, y0, x1, y1 of a label file of outlines, as shares of the image."""
    rows = [np.array(line.split()[1:], float) for line in label.read_text().splitlines()]
    return np.array([[r[::2].min(), r[1::2].min(), r[::2].max(), r[1::2].max()] for r in rows])


def test_large_images_are_resized_once_and_labels_stay_exact(split: Split, tmp_path: Path) -> None:
    data = _write(split, tmp_path / "data", image_size=48)
    images = sorted((data.parent / "images").rglob("*.*"))
    assert len(images) == sum(s.is_defect for s in split.train) + len(split.val)
    for image in images:
        assert not image.is_symlink()
        assert max(read_rgb(image).shape[:2]) == 48
    sample = next(s for s in split.train if s.is_defect)
    label = next((data.parent / "labels/train").glob(f"*{sample.label}__{sample.image.stem}.txt"))
    height, width = read_truth(sample).shape
    true = [r.box_xyxy for r in regions_of(read_truth(sample))]
    found = _boxes(label) * [width, height, width, height]
    np.testing.assert_allclose(sorted(found.tolist()), sorted(true), atol=0.011)  # the inset


def test_pasted_images_are_added_with_their_labels(split: Split, tmp_path: Path) -> None:
    data = _write(split, tmp_path / "data", image_size=64, copy_paste_per_image=2)
    pasted = sorted((data.parent / "images/train").glob("pasted__*.png"))
    assert pasted
    assert not list((data.parent / "images/val").glob("pasted__*"))
    for image in pasted:
        boxes = _boxes(data.parent / f"labels/train/{image.stem}.txt")
        assert len(boxes)
        assert np.all((boxes >= 0) & (boxes <= 1) & np.isfinite(boxes))
    before = {p.name: p.read_bytes() for p in pasted}
    _write(split, tmp_path / "data", image_size=64, copy_paste_per_image=2)  # as a resumed run does
    assert before == {p.name: p.read_bytes() for p in pasted}


def test_a_background_prompt_is_a_last_class_without_boxes(split: Split, tmp_path: Path) -> None:
    data = _write(split, tmp_path / "data", background="nothing: all well")
    names = yaml.safe_load(data.read_text())["names"]
    assert list(names.values()) == [*split.dataset.classes, "nothing: all well"]
    labels = "".join(p.read_text() for p in (data.parent / "labels/train").glob("*.txt"))
    assert {int(line.split()[0]) for line in labels.splitlines()} == {
        split.dataset.classes.index(s.label) for s in split.train if s.is_defect
    }


def test_an_interrupted_preparation_is_completed(split: Split, tmp_path: Path) -> None:
    data = _write(split, tmp_path / "data", image_size=48, copy_paste_per_image=1)
    whole = {p.name for p in data.parent.rglob("*.*")}
    (data.parent / "complete").unlink()
    next((data.parent / "images/train").glob("pasted__*")).unlink()
    (data.parent / "images/train/.pasted__00000.png.tmp-1.png").write_bytes(b"half an image")
    _write(split, tmp_path / "data", image_size=48, copy_paste_per_image=1)
    found = {p.name for p in data.parent.rglob("*.*") if ".tmp-" not in p.name}
    assert found == whole


def test_no_test_image_can_be_reached(split: Split, tmp_path: Path) -> None:
    data = _write(split, tmp_path / "data", background_images="all")
    content = yaml.safe_load(data.read_text())
    assert content["val"] == "images/val"  # not the test part in its place
    linked = {p.resolve() for p in data.parent.rglob("*.png")}
    assert linked == {s.image.resolve() for s in (*split.train, *split.val)}
    assert not any((data.parent / "labels/test").iterdir())
    names = content["names"]
    assert [names[i] for i in sorted(names)] == list(split.dataset.classes)


@pytest.mark.parametrize(("background_images", "expected"), [("0", 0), ("3", 3), ("0.2", 3)])
def test_background_images_are_good_training_images(
    split: Split, tmp_path: Path, background_images: str, expected: int
) -> None:
    # A share of 0.2 beside the 6 to 12 defect images of the small sample.
    data = _write(split, tmp_path / "data", background_images=background_images)
    empty = [p for p in (data.parent / "labels/train").glob("*.txt") if not p.read_text()]
    if "." in background_images:
        defects = sum(s.is_defect for s in split.train)
        expected = round(defects * 0.2 / 0.8)
    assert len(empty) == expected


def test_every_class_has_prompts_without_a_slash(split: Split) -> None:
    prompts = class_phrases(split.dataset)
    assert tuple(prompts) == split.dataset.classes
    assert all(phrases and not any("/" in p for p in phrases) for phrases in prompts.values())


@pytest.mark.parametrize(
    ("settings", "dataset", "expected"),
    [
        ({"flips": "none", "degrees": "0"}, "bottle", (0.0, 0.0, 0.0)),
        ({"flips": "both"}, "transistor", (0.5, 0.5, 0.0)),
        ({"flips": "horizontal"}, "bottle", (0.5, 0.0, 180.0)),
        ({"flips": "vertical"}, "bottle", (0.0, 0.5, 180.0)),
        ({}, "bottle", (0.5, 0.5, 180.0)),  # round, seen from above
        ({}, "no such card", (0.5, 0.0, 0.0)),  # upside down only where a card allows it
        ({"degrees": "10"}, "transistor", (0.5, 0.0, 10.0)),
    ],
)
def test_flips_and_rotation(
    settings: dict[str, Any], dataset: str, expected: tuple[float, float, float]
) -> None:
    found = flips_and_rotation(YoloSettings(**settings), dataset_name=dataset)
    assert (found["fliplr"], found["flipud"], found["degrees"]) == expected
