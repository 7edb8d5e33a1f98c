"""The real bottle, read by the tools that its conversions are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.data.images import read_mask, read_truth
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.data.types import Dataset
from toolkit.formats.convert import convert
from toolkit.formats.masks import convert_to_masks

pytestmark = pytest.mark.real
PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def bottle(bottle_dir: Path) -> Dataset:
    return load_dataset(bottle_dir)


@pytest.fixture(scope="module")
def fold(bottle: Dataset) -> Split:
    return make_plan(bottle).fold(bottle, 0)


@pytest.mark.parametrize("to", ["yolo", "yolo-seg"])
def test_ultralytics_reads_every_box(
    bottle: Dataset, fold: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    (tmp_path / "settings").mkdir()
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    report = convert(bottle, to=to, out=tmp_path / "out", split=fold)
    assert report.n_images == 292
    data = check_det_dataset(str(tmp_path / "out/data.yaml"), autodownload=False)
    assert tuple(data["names"].values()) == report.classes
    found = 0
    for part in PARTS:
        task = "segment" if to == "yolo-seg" else "detect"
        images = YOLODataset(img_path=data[part], data=data, task=task, augment=False)
        assert len(images.labels) == sum(report.images[part].values())  # none is corrupt
        found += sum(len(label["bboxes"]) for label in images.labels)
    assert found == report.n_regions == 68


def test_pycocotools_counts_the_pixels(bottle: Dataset, fold: Split, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    report = convert(bottle, to="coco", out=tmp_path / "out", split=fold)
    found = 0
    for part in PARTS:
        data = COCO(tmp_path / f"out/annotations/instances_{part}.json")
        for image in data.imgs.values():
            ours = data.loadAnns(data.getAnnIds(imgIds=image["id"]))
            found += len(ours)
            truth = read_truth(bottle.by_id[image["source"]])
            union = np.zeros_like(truth)
            for one in ours:
                mask = data.annToMask(one).astype(bool)
                assert mask.sum() == one["area"]
                union |= mask
            assert (union == truth).all()
    assert found == report.n_regions == 68


@pytest.mark.parametrize("to", ["yolo-seg", "coco"])
def test_every_mask_comes_back(bottle: Dataset, tmp_path: Path, to: str) -> None:
    convert(bottle, to=to, out=tmp_path / "there", classes="single")
    convert_to_masks(tmp_path / "there", out=tmp_path / "back")
    defects = [s for s in bottle if s.is_defect]
    for sample in defects:
        stem = "__".join(Path(sample.id).with_suffix("").parts)
        back = read_mask(tmp_path / f"back/masks/test/{stem}.png")
        assert (back == read_truth(sample)).all()
    assert len(defects) == 63


def test_supervision_reads_both(bottle: Dataset, fold: Split, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    report = convert(bottle, to="yolo", out=tmp_path / "yolo", split=fold)
    # supervision follows no link out of the folder of a COCO file
    convert(bottle, to="coco", out=tmp_path / "coco", split=fold, images="copy")
    expected = sum(report.images["test"].values())
    yolo = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(tmp_path / "yolo/images/test"),
        annotations_directory_path=str(tmp_path / "yolo/labels/test"),
        data_yaml_path=str(tmp_path / "yolo/data.yaml"),
    )
    coco = supervision.DetectionDataset.from_coco(
        images_directory_path=str(tmp_path / "coco/images/test"),
        annotations_path=str(tmp_path / "coco/annotations/instances_test.json"),
        force_masks=True,
    )
    assert len(yolo) == len(coco) == expected
    by_name = {}
    for path, _, found in yolo:
        by_name[Path(path).name] = found
    for path, _, found in coco:
        other = by_name[Path(path).name]
        assert len(found) == len(other)
        if len(found):
            assert np.allclose(sorted(found.xyxy.tolist()), sorted(other.xyxy.tolist()), atol=1e-2)
            truth = read_truth(bottle.by_id[Path(path).stem.replace("__", "/") + Path(path).suffix])
            assert (found.mask.any(axis=0) == truth).all()
