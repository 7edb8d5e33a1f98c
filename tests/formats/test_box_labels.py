"""Data sets of which only boxes are labelled: what is written, what is refused, what is scored."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.reporting.fake_runs import make_run
from toolkit.data.check import check_dataset
from toolkit.data.info import dataset_info
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.data.validate import validate_dataset
from toolkit.errors import DataError
from toolkit.formats.convert import convert
from toolkit.formats.readers import open_converted
from toolkit.formats.report import recall_hashes
from toolkit.methods.sam.targets import region_targets

ROWS = ("0 0.25 0.5 0.25 0.5\n", "0 0.25 0.5 0.25 0.5\n1 0.75 0.5 0.125 0.25\n", "")


@pytest.fixture
def boxes(tmp_path: Path) -> Dataset:
    """Twelve images of 80x40 pixels: dents, dents with cuts, good ones."""
    rng = np.random.default_rng(0)
    for index in range(12):
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (40, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"set/images/{index:02}.png"), image)
        (tmp_path / f"set/labels/{index:02}.txt").write_text(ROWS[index % 3])
    (tmp_path / "set/classes.txt").write_text("dent\ncut\n")
    return load_dataset(tmp_path / "set")


@pytest.mark.parametrize("to", ["yolo", "coco"])
def test_the_same_boxes_come_back(boxes: Dataset, tmp_path: Path, to: str) -> None:
    report = convert(boxes, to=to, out=tmp_path / "out")
    assert report.problems == []
    assert report.classes == ("cut", "dent")
    assert dict(report.regions) == {"dent": 8, "cut": 4}
    found = {len(image.shapes) for image in open_converted(tmp_path / "out")}
    assert found == {0, 1, 2}
    again = load_dataset(tmp_path / "out")
    assert again.layout == to
    assert again.region_classes == ("cut", "dent")
    before = sorted((m.label, m.box) for s in boxes for m in s.marks)
    after = sorted((m.label, m.box) for s in again for m in s.marks)
    assert [label for label, _ in after] == [label for label, _ in before]
    assert [b for _, b in after] == [pytest.approx(b) for _, b in before]


def test_changed_labels_are_noticed(boxes: Dataset, tmp_path: Path) -> None:
    first = convert(boxes, to="yolo", out=tmp_path / "out")
    (boxes.root / "labels/02.txt").write_text(ROWS[0])
    again = load_dataset(boxes.root)
    recall_hashes(again, tmp_path / "out")
    second = convert(again, to="yolo", out=tmp_path / "out", overwrite=True)
    assert not second.up_to_date
    assert second.n_regions == first.n_regions + 1
    assert second.fingerprint != first.fingerprint


def test_image_folders_have_the_images_label(boxes: Dataset, tmp_path: Path) -> None:
    report = convert(boxes, to="imagefolder", out=tmp_path / "out")
    assert report.classes == ("combined", "dent")
    assert report.n_images == 12


@pytest.mark.parametrize("to", ["yolo-seg", "sam"])
def test_outlines_are_needed(boxes: Dataset, tmp_path: Path, to: str) -> None:
    report = convert(boxes, to=to, out=tmp_path / "out")
    assert {problem.kind for problem in report.problems} == {"boxes only"}
    assert len(report.problems) == 8
    assert "label outlines" in report.problems[0].message


def test_sam_says_so(boxes: Dataset) -> None:
    with pytest.raises(DataError, match="only boxes are labelled, and SAM learns masks"):
        region_targets(boxes.samples)


def test_info_and_check(boxes: Dataset) -> None:
    validate_dataset(boxes)
    info = dataset_info(boxes)
    dent = next(one for one in info.classes if one.label == "dent")
    assert (dent.with_mask, dent.with_boxes) == (0, 4)
    assert dent.area_percent is not None
    assert dent.area_percent.median == pytest.approx(12.5)
    assert check_dataset(boxes) == []


def test_metrics(boxes: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", boxes, outputs=["boxes", "map"])
    metrics = run.metrics()
    assert set(metrics["boxes"]["ap50_by_class"]) == {"cut", "dent"}
    assert "pixel" not in metrics
    assert 0 <= metrics["image"]["auroc"] <= 1
    json.dumps(metrics, allow_nan=False)
