"""Folders as users lay them out: what each is read as, and what is said of one that is not read."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from toolkit.cli.main import main
from toolkit.data.layouts import find_datasets, load_dataset
from toolkit.data.protocols import make_plan
from toolkit.errors import DataError, UnknownLayoutError

Rows = dict[str, tuple[str, str]]
"""File to label and part."""

# name of the tree: layout and rows
TREES: dict[str, tuple[str, Rows]] = {
    "good and bad": ("classes", {"good/a.png": ("good", "test"), "bad/a.png": ("bad", "test")}),
    "OK and NG": ("classes", {"OK/a.png": ("good", "test"), "NG/a.png": ("NG", "test")}),
    "Normal and types": (
        "classes",
        {
            "Normal/a.png": ("good", "test"),
            "dent/a.png": ("dent", "test"),
            "cut/a.png": ("cut", "test"),
        },
    ),
    "parts": (
        "classes",
        {
            "train/ok/a.png": ("good", "train"),
            "train/nok/a.png": ("nok", "train"),
            "val/ok/a.png": ("good", "train"),
            "test/ok/a.png": ("good", "test"),
            "test/nok/dent/a.png": ("dent", "test"),
        },
    ),
    "train and val": (
        "classes",
        {"train/OK/a.png": ("good", "train"), "val/NG/a.png": ("NG", "test")},
    ),
    "days below good": (
        "classes",
        {
            "good/2026-05-01/a.png": ("good", "test"),
            "good/2026-05-02/a.png": ("good", "test"),
            "bad/cam1/a.png": ("bad", "test"),
        },
    ),
    "cameras above good": (
        "classes",
        {"cam1/good/a.png": ("good", "test"), "cam2/bad/a.png": ("bad", "test")},
    ),
    "days below train/good": (
        "mvtec",
        {"train/good/2026-05-01/a.png": ("good", "train"), "test/dent/a.png": ("dent", "test")},
    ),
    "good only": ("classes", {"good/a.png": ("good", "train")}),
    "flat": ("flat", {"a.png": ("good", "train"), "b.JPG": ("good", "train")}),
    "flat by day": ("flat", {"2026-05-01/a.png": ("good", "train"), "7/a.png": ("good", "train")}),
    "flat images": ("flat", {"images/a.png": ("good", "train")}),
}


def touch(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("name", TREES)
def test_trees(tmp_path: Path, name: str) -> None:
    layout, rows = TREES[name]
    dataset = load_dataset(touch(tmp_path / "part", list(rows)))
    assert dataset.layout == layout
    assert {s.id: (s.label, s.part) for s in dataset} == rows
    assert find_datasets(tmp_path / "part") == []
    if not dataset.classes:
        assert any("nothing is evaluated" in note for note in dataset.notes)


def test_masks_beside_class_folders(tmp_path: Path) -> None:
    names = ["good/a.png", "bad/a.png", "bad/b.png", "masks/bad/a.png", "ground_truth/bad/b.png"]
    samples = load_dataset(touch(tmp_path, names)).by_id
    assert len(samples) == 3
    assert [m.name for m in samples["bad/a.png"].masks] == ["a.png"]
    assert samples["bad/b.png"].has_mask


def test_days_are_no_defect_classes_beside_masks(tmp_path: Path) -> None:
    names = ["images/2026-05-01/a.png", "images/2026-05-01/b.png", "masks/2026-05-01/a.png"]
    assert [s.label for s in load_dataset(touch(tmp_path, names))] == ["defect", "good"]


def test_an_image_beside_class_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lies beside the class folders.*move it"):
        load_dataset(touch(tmp_path, ["good/a.png", "bad/a.png", "stray.png"]))


@pytest.mark.parametrize(
    "names",
    [
        ["dent/a.png", "cut/a.png"],  # which one is good?
        ["a.png", "reference/b.png"],
        ["a.png", "masks/a.png"],
        ["bad/a.png"],
    ],
)
def test_what_is_not_understood_is_shown(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UnknownLayoutError, match="not a data set") as caught:
        load_dataset(touch(tmp_path / "part", names))
    found = caught.value.details.splitlines()
    assert found[0].split() == ["found", "would", "do,", "one", "of"]
    assert "part/" in found[1]
    assert any(Path(names[0]).parts[0] in line or "1 image" in line for line in found)
    assert all(len(line) <= 100 for line in found)


def test_the_command_prints_both_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = touch(tmp_path / "part", ["dent/a.png", "cut/a.png"])
    monkeypatch.setattr(sys, "argv", ["toolkit", "dataset", "info", str(folder)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("toolkit: ")
    assert "dent/  1 image" in printed
    assert "labels/*.txt" in printed


def yolo(root: Path, rows: dict[str, str | None], data: str | None) -> Path:
    """Lay out images, their label files (None: no file), and `data.yaml`."""
    for name, text in rows.items():
        touch(root, [f"images/{name}.png"])
        if text is not None:
            path = root / f"labels/{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if data is not None:
        (root / "data.yaml").write_text(data)
    return root


DATA = "path: /elsewhere\ntrain: images/train\nval: images/val\nnames: [dent, cut]\n"


def test_yolo(tmp_path: Path) -> None:
    rows = {
        "train/a": "0 0.5 0.5 0.2 0.4\n",
        "train/b": "",
        "train/c": "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.2 0.2\n",
        "val/d": "1 0.1 0.1 0.3 0.1 0.3 0.3\n",
        "val/e": None,
    }
    dataset = load_dataset(yolo(tmp_path, rows, DATA))
    assert dataset.layout == "yolo"
    found = {Path(s.id).stem: (s.label, s.part, s.has_mask) for s in dataset}
    assert found == {
        "a": ("dent", "train", False),
        "b": ("good", "train", False),
        "c": ("combined", "train", False),
        "d": ("cut", "test", True),
        "e": ("good", "test", False),
    }
    assert dataset.by_id["images/train/a.png"].marks[0].box == pytest.approx((0.4, 0.3, 0.6, 0.7))
    assert dataset.classes == ("combined", "cut", "dent")
    assert dataset.region_classes == ("cut", "dent")
    assert dataset.notes == ("1 images have no label file and are taken for good",)


def test_yolo_without_data_file_and_in_the_other_order(tmp_path: Path) -> None:
    flat = yolo(tmp_path / "flat", {"a": "1 0.5 0.5 0.2 0.4\n", "b": ""}, None)
    (flat / "classes.txt").write_text("dent\ncut\n")
    assert [(s.label, s.part) for s in load_dataset(flat)] == [("cut", "test"), ("good", "test")]
    other = tmp_path / "other"
    touch(other, ["train/images/a.png", "test/images/a.png", "test/labels/a.txt"])
    touch(other, ["train/labels/a.txt"]).joinpath("train/labels/a.txt").write_text("0 .5 .5 .1 .1")
    (other / "data.yaml").write_text(
        "train: ../train/images\ntest: ../test/images\nnames: {0: dent}"
    )
    found = {s.id: (s.label, s.part) for s in load_dataset(other)}
    assert found == {
        "train/images/a.png": ("dent", "train"),
        "test/images/a.png": ("good", "test"),
    }


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("5 0.5 0.5 0.2 0.2", "class 5 has no name"),
        ("0 0.5 0.5 0.2", "3 numbers behind the class"),
        ("0 0.5 0.5 0 0.2", "without width"),
        ("0 0.5 0.5 nan 0.2", "without width"),
        ("0 0.9 0.5 0.4 0.2", "leaves the image"),
        ("0 0.1 0.1 0.5 nan 0.5 0.5 0.1 0.5", "an outline far outside"),
        ("dent 0.5 0.5 0.2 0.2", "not a row of numbers"),
    ],
)
def test_wrong_label_rows(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"a\.txt: line 2: .*{words}"):
        load_dataset(yolo(tmp_path, {"train/a": f"0 0.5 0.5 0.2 0.2\n{row}\n"}, DATA))


def coco(root: Path, name: str, **changes: object) -> Path:
    record = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 10, "height": 20},
            {"id": 2, "file_name": "b.png", "width": 10, "height": 20},
            {"id": 3, "file_name": "c.png", "width": 10, "height": 20},
        ],
        "categories": [{"id": 7, "name": "dent"}, {"id": 9, "name": "cut"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "segmentation": []},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 9,
                "bbox": [0, 0, 5, 5],
                "segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]],
            },
        ],
    }
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**record, **changes}))
    return root


@pytest.mark.parametrize(
    ("file", "images", "part"),
    [
        ("annotations/instances_default.json", "images", "test"),
        ("annotations/instances_train2017.json", "images/train2017", "train"),
        ("train/_annotations.coco.json", "train", "train"),
        ("labels.json", ".", "test"),
    ],
)
def test_coco(tmp_path: Path, file: str, images: str, part: str) -> None:
    touch(tmp_path / images, ["a.png", "b.png", "c.png", "unlisted.png"])
    dataset = load_dataset(coco(tmp_path, file))
    assert dataset.layout == "coco"
    found = {Path(s.id).name: (s.label, s.part, s.has_mask) for s in dataset}
    assert found == {
        "a.png": ("dent", part, False),
        "b.png": ("cut", part, True),
        "c.png": ("good", part, False),
    }
    box = next(s for s in dataset if s.label == "dent").marks[0].box
    assert box == pytest.approx((0.1, 0.1, 0.4, 0.3))


def test_run_lengths_of_coco(tmp_path: Path) -> None:
    from toolkit.data.images import read_regions

    runs = {"size": [2, 3], "counts": [2, 2, 2]}  # the middle column
    one = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 0, 1, 2], "segmentation": runs}
    image = {"id": 1, "file_name": "a.png", "width": 3, "height": 2}
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 3, 3), np.uint8))
    dataset = load_dataset(coco(tmp_path, "labels.json", images=[image], annotations=[one]))
    ((label, region),) = read_regions(dataset.samples[0])
    assert (label, region.box_xyxy, region.area) == ("dent", (1, 0, 2, 2), 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [{"id": 1, "file_name": None, "width": 1, "height": 1}]}, "is not there"),
        ({"images": [{"id": 1, "file_name": "../x", "width": 1, "height": 1}]}, "is not there"),
        ({"images": [{"id": 1}]}, "damaged COCO file"),
        ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "no name"),
        ({"annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 99, 1]}]}, "leaves"),
        ({"annotations": [{"image_id": 1, "category_id": 7, "bbox": "x"}]}, "damaged COCO file"),
        ({"annotations": 5}, "damaged COCO file"),
    ],
)
def test_damaged_coco(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    touch(tmp_path, ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match=words):
        load_dataset(coco(tmp_path, "labels.json", **changes))


def test_official_divides_what_nobody_divided(tmp_path: Path) -> None:
    for index in range(20):
        touch(tmp_path, [f"good/{index}.png"]).joinpath(f"good/{index}.png").write_text(str(index))
    touch(tmp_path, ["bad/a.png"]).joinpath("bad/a.png").write_text("bad")
    plan = make_plan(load_dataset(tmp_path), protocol="official")
    assert Counter((s.slot, s.label) for s in plan.slots) == {
        ("train", "good"): 13,
        ("val", "good"): 1,
        ("test", "good"): 6,
        ("test", "bad"): 1,
    }


def test_defects_of_train_train_where_defects_may(tmp_path: Path) -> None:
    names = [f"{part}/{label}/{i}.png" for part in ("train", "test") for label in ("ok", "ng")
             for i in range(6)]  # fmt: skip
    for name in names:
        touch(tmp_path, [name]).joinpath(name).write_text(name)
    dataset = load_dataset(tmp_path)
    supervised = make_plan(dataset, protocol="supervised", folds=3)
    assert {s.slot for s in supervised.slots if s.id.startswith("train/ng")} == {"train"}
    official = make_plan(dataset, protocol="official")
    assert not [s for s in official.slots if s.id.startswith("train/ng")]
