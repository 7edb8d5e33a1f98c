"""Retention: mAP before and after, and the reason where it cannot be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from toolkit import ultralytics_env
from toolkit.errors import ConfigError
from toolkit.methods.yolo.predictor import YoloPredictor
from toolkit.methods.yolo.retention import (
    measure_retention,
    read_retention_data,
    why_not_measured,
)
from toolkit.methods.yolo.text_embeddings import CLIP, NOT_CLIP

NAMES = ("cat", "dog")


class _Detector:
    """Sees the bright square of an image as one class, or sees nothing."""

    stride = torch.tensor([32.0])
    names = dict(enumerate(NAMES))  # noqa: RUF012 - as Ultralytics has it

    def __init__(self, predicts: int | None) -> None:
        self._predicts = predicts

    def __call__(self, batch: torch.Tensor) -> Any:
        rows, columns = torch.nonzero(batch[0, 0] > 0.9, as_tuple=True)
        x0, x1 = columns.min().item(), columns.max().item() + 1
        y0, y1 = rows.min().item(), rows.max().item() + 1
        scores = [0.9 * (self._predicts == i) for i in range(2)]
        box = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, *scores]
        return torch.tensor(box).reshape(1, 6, 1)


def _predictor(predicts: int | None) -> YoloPredictor:
    return YoloPredictor(_Detector(predicts), image_size=64, nms_iou=0.7)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Two images of cats, labelled once with a box and once with an outline."""
    ultralytics_env.prepare()
    for kind in ("images", "labels"):
        (tmp_path / f"{kind}/val").mkdir(parents=True)
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 8:40] = 255
    rows = {"box": "0 0.375 0.5 0.5 0.5", "outline": "0 .125 .25 .625 .25 .625 .75 .125 .75"}
    for name, row in rows.items():
        assert cv2.imwrite(str(tmp_path / f"images/val/{name}.png"), image)
        (tmp_path / f"labels/val/{name}.txt").write_text(row + "\n")
    (tmp_path / "data.yaml").write_text("val: images/val\nnames: [cat, dog]\n")
    return tmp_path / "data.yaml"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0, 0, (1.0, 1.0)),  # everything was retained
        (0, 1, (1.0, 0.0)),  # the cat is a dog now
        (0, None, (1.0, 0.0)),  # it is not seen at all
        (None, 0, (0.0, 1.0)),
    ],
)
def test_map_before_and_after(
    before: int | None, after: int | None, expected: tuple[float, float], old: Path
) -> None:
    data = read_retention_data(old)
    found = measure_retention(_predictor(before), _predictor(after), data)
    assert (found["map50_before"], found["map50_after"]) == pytest.approx(expected)
    assert (found["map50_95_before"], found["map50_95_after"]) == pytest.approx(expected)
    assert found["map50_change"] == pytest.approx(expected[1] - expected[0])
    assert (found["images"], found["classes"]) == (2, 2)


def test_an_image_without_a_label_file_has_no_boxes(old: Path) -> None:
    (old.parent / "labels/val/box.txt").unlink()
    found = measure_retention(_predictor(0), _predictor(0), read_retention_data(old))
    assert 0.4 < found["map50_before"] < 1  # the box there is a false positive


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a]\n", "'val' and 'names'"),
        ("val: images/val\n", "'val' and 'names'"),
        ("val: nothing/here\nnames: [a]\n", "no images in"),
        ("val: images/val\nnames: {1: a, 2: b}\n", "number the names from 0 on"),
    ],
)
def test_other_files_are_no_retention_data(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"retention_data=.*{message}"):
        read_retention_data(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    "row",
    [
        "2 0.5 0.5 0.1 0.1",  # no such class
        "0.5 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1 0.1 0.9",  # a prediction, with its confidence
        "0 0.5 0.5",
        "0 0.5 nan 0.1 0.1",
        "cat 0.5 0.5 0.1 0.1",
    ],
)
def test_a_label_that_is_none_is_named_when_the_data_is_read(row: str, old: Path) -> None:
    label = old.parent / "labels/val/box.txt"
    label.write_text(f"0 0.5 0.5 0.1 0.1\n\n{row}\n")
    with pytest.raises(ConfigError, match=r"labels/val/box\.txt: line 3 is no .* from 0 to 1"):
        read_retention_data(old)


@pytest.mark.parametrize(
    ("source", "retention_data", "message"),
    [
        (NOT_CLIP, "x.yaml", "not CLIP"),
        (f"tuned on bottle, from {NOT_CLIP}", "x.yaml", "not CLIP"),
        ("my own vectors", "x.yaml", "my own vectors"),
        (CLIP, "", "retention_data"),
        (CLIP, "x.yaml", None),
        (f"tuned on bottle, from {CLIP}", "x.yaml", None),
    ],
)
def test_the_reason_there_is_nothing_to_compare(
    source: str, retention_data: str, message: str | None
) -> None:
    found = why_not_measured(source=source, retention_data=retention_data)
    assert found is None if message is None else message in str(found)
