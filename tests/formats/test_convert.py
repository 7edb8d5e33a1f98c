"""The conversion as a whole: what lies where, what is counted, what is atomic."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from formats.conftest import blank, masks, write_png
from toolkit.data.dataset_cards import prompts_for
from toolkit.data.images import image_size, read_mask
from toolkit.data.layouts import load_dataset
from toolkit.data.regions import regions_of
from toolkit.data.splits import Split
from toolkit.data.types import Dataset
from toolkit.errors import ConfigError
from toolkit.files import OutputError
from toolkit.formats import pipeline
from toolkit.formats.convert import convert
from toolkit.formats.extract import (
    BELOW_MIN_AREA,
    NO_CLASS,
    NO_CLASS_IMAGE,
    NOTHING_LEFT,
    resize,
)
from toolkit.formats.report import Report
from toolkit.formats.sam import SamPairs, positive_points

FORMATS = ["yolo", "yolo-seg", "coco", "sam", "imagefolder"]


def split_of(dataset: Dataset, *, train: list[str], val: list[str], test: list[str]) -> Split:
    parts = [tuple(dataset.by_id[i] for i in ids) for ids in (train, val, test)]
    return Split(dataset, "abcdef123456", "supervised", 0, *parts)


def rows(path: Path) -> list[list[float]]:
    return [[float(v) for v in line.split()] for line in path.read_text().splitlines()]


def test_yolo_files_and_numbers(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = convert(dataset, to="yolo", out=out)
    # 4 training and 6 test images; regions: 1 + 4 (ring, island, speck, line) + 3 + 1
    assert report.images == {
        "train": Counter(good=4),
        "test": Counter(good=2, scratch=2, dent=2),
    }
    assert report.regions == Counter(scratch=5, dent=4)
    assert report.classes == ("dent", "scratch")
    # the 50-pixel-wide region is 50 pixels wide
    (row,) = rows(out / "labels/test/test__scratch__000.txt")
    assert row == pytest.approx([1, 30 / 60, 15 / 40, 50 / 60, 10 / 40])
    # a background has an empty file, an image has a link of its own
    assert (out / "labels/train/train__good__003.txt").read_text() == ""
    image = out / "images/test/test__dent__001.png"
    assert image.is_symlink()
    assert image.read_bytes() == dataset.by_id["test/dent/001.png"].image.read_bytes()
    assert Report.read(out).record() == report.record()


def test_data_yaml(dataset: Dataset, tmp_path: Path) -> None:
    split = split_of(
        dataset,
        train=["test/dent/000.png"],
        val=["test/scratch/000.png"],
        test=["test/good/000.png"],
    )
    convert(dataset, to="yolo", out=tmp_path / "out", split=split)
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert data["names"] == {0: "dent", 1: "scratch"}
    assert data["prompts"] == {0: "dent", 1: "scratch"}
    assert data["path"] == str((tmp_path / "out").resolve())
    assert (data["train"], data["val"], data["test"]) == (
        "images/train",
        "images/val",
        "images/test",
    )
    assert data["fingerprint"] == dataset.fingerprint
    assert (data["split"], data["fold"]) == ("abcdef123456", 0)


def test_prompts_come_from_the_data_card(dataset: Dataset, tmp_path: Path) -> None:
    root = tmp_path / "bottle"
    dataset.root.rename(root)
    for folder in ("test", "ground_truth"):
        (root / folder / "dent").rename(root / folder / "broken_large")
    convert(load_dataset(root), to="yolo", out=tmp_path / "out")
    prompts = yaml.safe_load((tmp_path / "out/data.yaml").read_text())["prompts"]
    assert prompts[0] == prompts_for("bottle", "broken_large")[0] != "broken large"


@pytest.mark.parametrize("name", ["no", "1e3", "null", "~", "0x10", 'a "b": c', "ünï # x"])
def test_class_names_survive_yaml(
    folder: Path, reread: Callable[[], Dataset], tmp_path: Path, name: str
) -> None:
    for kind in ("test", "ground_truth"):
        (folder / kind / "dent").rename(folder / kind / name)
    report = convert(reread(), to="yolo", out=tmp_path / "out")
    names = yaml.safe_load((tmp_path / "out/data.yaml").read_text())["names"]
    assert name in names.values()
    said = [p for p in report.problems if p.kind == "class name"]
    assert len(said) == (name in ("no", "1e3", "null", "~"))
    assert report.regions[name] == 4  # named, and converted all the same


@pytest.mark.parametrize(
    ("backgrounds", "expected"),
    [
        ("all", 4),
        (0, 0),
        (3, 3),
        (99, 4),  # more than there are
        (0.5, 2),  # as many as the two defects
        (0.0, 0),
    ],
)
def test_backgrounds(dataset: Dataset, tmp_path: Path, backgrounds: Any, expected: int) -> None:
    good = [s.id for s in dataset if s.part == "train"]
    split = split_of(
        dataset,
        train=["test/dent/000.png", "test/dent/001.png", *good],
        val=["test/good/000.png"],
        test=["test/scratch/000.png"],
    )
    report = convert(dataset, to="yolo", out=tmp_path / "out", split=split, backgrounds=backgrounds)
    assert report.images["train"]["good"] == expected
    assert report.images["val"]["good"] == 1  # always stays
    assert report.backgrounds == (expected, 4)


@pytest.mark.parametrize(
    ("options", "regions", "dropped", "merged"),
    [
        # the speck, the island and a splinter of 25 pixels go, the line of 26 stays
        ({"min_area": 26}, 6, {BELOW_MIN_AREA: 3}, 0),
        # all splinters of dent/000 are below, so the image is no background either
        ({"min_area": 60}, 3, {BELOW_MIN_AREA: 6, NOTHING_LEFT: 1}, 0),
        # two splinters are 3 apart
        ({"merge_distance": 3}, 8, {}, 1),
        ({"classes": {"dent": "x", "scratch": None}}, 4, {NO_CLASS: 5, NOTHING_LEFT: 2}, 0),
    ],
)
def test_dropped_and_merged_are_counted(
    dataset: Dataset,
    tmp_path: Path,
    options: dict[str, Any],
    regions: int,
    dropped: dict[str, int],
    merged: int,
) -> None:
    report = convert(dataset, to="yolo", out=tmp_path / "out", **options)
    assert report.n_regions == regions
    assert report.dropped == dropped
    assert report.merged == merged
    lost = sum(n for reason, n in dropped.items() if reason != NOTHING_LEFT)
    assert report.found == regions + merged + lost == 9


def test_single_class(dataset: Dataset, tmp_path: Path) -> None:
    report = convert(dataset, to="coco", out=tmp_path / "out", classes="single")
    assert report.classes == ("defect",)
    assert report.regions == Counter(defect=9)


def test_mask_values(folder: Path, reread: Callable[[], Dataset], tmp_path: Path) -> None:
    values = blank()
    values[0:5, 0:5], values[10:15, 0:5] = 1, 2
    for name in masks():
        write_png(folder / f"ground_truth/{name}_mask.png", values)
    report = convert(reread(), to="yolo", out=tmp_path / "out", mask_values={1: "tear", 2: "burr"})
    assert report.regions == Counter(tear=4, burr=4)
    report = convert(reread(), to="yolo", out=tmp_path / "out2", mask_values={1: "tear"})
    assert [p.kind for p in report.problems] == ["mask value"] * 4


@pytest.mark.parametrize("to", FORMATS)
def test_second_run_does_nothing(dataset: Dataset, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    first = convert(dataset, to=to, out=out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    second = convert(replace(dataset), to=to, out=out)
    assert not first.up_to_date
    assert second.up_to_date
    assert second.record() == first.record()
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write_png(root / "ground_truth/dent/001_mask.png", masks()["dent/000"]),
        lambda root: write_png(root / "test/good/002.png", np.zeros((40, 60, 3), np.uint8)),
        lambda root: (root / "test/good/001.png").unlink(),
    ],
    ids=["mask changed", "image added", "image removed"],
)
def test_changed_input_is_seen(
    folder: Path, reread: Callable[[], Dataset], tmp_path: Path, change: Callable[[Path], Any]
) -> None:
    convert(reread(), to="yolo", out=tmp_path / "out")
    change(folder)
    with pytest.raises(OutputError, match="--overwrite"):
        convert(reread(), to="yolo", out=tmp_path / "out")
    report = convert(reread(), to="yolo", out=tmp_path / "out", overwrite=True)
    assert not report.up_to_date


def test_changed_options_are_seen(dataset: Dataset, tmp_path: Path) -> None:
    convert(dataset, to="yolo", out=tmp_path / "out")
    with pytest.raises(OutputError, match="--overwrite"):
        convert(dataset, to="yolo", out=tmp_path / "out", min_area=2)
    everything = [s.id for s in dataset]
    split = split_of(dataset, train=everything[:3], val=everything[3:5], test=everything[5:])
    convert(dataset, to="yolo", out=tmp_path / "out", split=split, overwrite=True)
    # equal plan hash and fold, but one part emptied
    report = convert(
        dataset, to="yolo", out=tmp_path / "out", split=replace(split, test=()), overwrite=True
    )
    assert not report.up_to_date


@pytest.mark.parametrize("to", FORMATS)
def test_workers_write_the_same(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr(pipeline, "MIN_IMAGES_PER_WORKER", 1)
    alone = convert(dataset, to=to, out=tmp_path / "a" / "out", seed=3)
    shared = convert(dataset, to=to, out=tmp_path / "b" / "out", seed=3, workers=2)
    assert alone.record() == shared.record()
    a, b = tmp_path / "a" / "out", tmp_path / "b" / "out"
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    for name in files:
        if name.name not in ("data.yaml", ".inputs.json", "checksums.json"):
            assert (a / name).read_bytes() == (b / name).read_bytes()


@pytest.mark.parametrize("images", ["link", "hardlink", "copy"])
def test_images(dataset: Dataset, tmp_path: Path, images: Any) -> None:
    convert(dataset, to="imagefolder", out=tmp_path / "out", images=images)
    source = dataset.by_id["test/dent/000.png"].image
    there = tmp_path / "out/test/dent/test__dent__000.png"
    assert there.is_symlink() == (images == "link")
    assert there.samefile(source) == (images != "copy")
    assert there.read_bytes() == source.read_bytes()


def test_imagefolder_leaves_out_a_class_mapped_to_nothing(dataset: Dataset, tmp_path: Path) -> None:
    report = convert(
        dataset, to="imagefolder", out=tmp_path / "out", classes={"dent": None, "scratch": "s"}
    )
    assert report.dropped == {NO_CLASS_IMAGE: 2}
    assert report.images["test"] == Counter(good=2, scratch=2)
    assert len(list((tmp_path / "out/test/s").iterdir())) == 2


def test_image_size_moves_image_and_geometry(dataset: Dataset, tmp_path: Path) -> None:
    convert(dataset, to="sam", out=tmp_path / "out", image_size=30)
    pairs = list(SamPairs(tmp_path / "out", part="test"))
    assert len(pairs) == 9  # the speck and the line are still there
    for pair in pairs:
        assert image_size(pair.image_path)[:2] == pair.size_wh == (30, 20)
        assert pair.mask().shape == (20, 30)
        assert pair.mask().sum() == pair.area > 0
    wide = next(p for p in pairs if p.source == "test/scratch/000.png")
    assert wide.box_xyxy == (2, 5, 27, 10)  # 5 is halved to 2.5: centres from 2 on lie inside


@pytest.mark.parametrize("image_size", [None, 300])
def test_points_are_repeatable(image_size: int | None) -> None:
    # A disc has many pixels that are almost equally far from its border.
    crop = np.zeros((82, 52), np.uint8)
    cv2.ellipse(crop, (26, 41), (25, 40), 0, 0, 360, 1, -1)
    region = regions_of(crop > 0)[0]
    if image_size:
        region = resize(region, from_wh=(52, 82), to_wh=(40, 63))
    drawn = {str(positive_points(region, 3, np.random.default_rng(0))) for _ in range(300)}
    assert len(drawn) == 1


def test_depth_noise_does_not_move_the_first_point(monkeypatch: pytest.MonkeyPatch) -> None:
    # OpenCV's distances differ in the last digits from call to call.
    exact, noise = cv2.distanceTransform, np.random.default_rng(0)

    def noisy(*arguments: Any) -> Any:
        found = exact(*arguments)
        return found * (1 + noise.uniform(-1e-6, 1e-6, found.shape)).astype(np.float32)

    monkeypatch.setattr(cv2, "distanceTransform", noisy)
    region = regions_of(np.ones((31, 60), dtype=bool))[0]
    found = {str(positive_points(region, 2, np.random.default_rng(0))) for _ in range(20)}
    assert len(found) == 1


def test_sam_pairs(dataset: Dataset, tmp_path: Path) -> None:
    report = convert(dataset, to="sam", out=tmp_path / "out", points=4)
    assert report.dropped == {"good image: the format has no place for it": 6}
    pairs = SamPairs(tmp_path / "out", part="test")
    assert len(pairs) == 9
    assert len(SamPairs(tmp_path / "out", part="train")) == 0
    for pair in pairs:
        mask = pair.mask()
        truth = read_mask(dataset.by_id[pair.source].masks[0])
        x0, y0, x1, y1 = pair.box_xyxy
        assert mask.sum() == pair.area
        assert mask[y0:y1, x0:x1].sum() == pair.area
        assert (truth | mask == truth).all()
        assert len(pair.positive_xy) == min(4, pair.area)
        assert len({tuple(p) for p in pair.positive_xy}) == len(pair.positive_xy)
        assert all(mask[y, x] for x, y in pair.positive_xy)
        assert len(pair.negative_xy) == 4
        assert not any(truth[y, x] for x, y in pair.negative_xy)
        assert pair.image().shape == (40, 60, 3)
        jx0, jy0, jx1, jy1 = pair.jittered_box_xyxy
        assert 0 <= jx0 < jx1 <= 60
        assert 0 <= jy0 < jy1 <= 40


def test_coco_is_what_pycocotools_reads(dataset: Dataset, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    convert(dataset, to="coco", out=tmp_path / "out")
    data = COCO(tmp_path / "out/annotations/instances_test.json")
    assert len(data.imgs) == 6
    assert [c["name"] for c in data.cats.values()] == ["dent", "scratch"]
    for one in data.anns.values():
        mask = data.annToMask(one)
        x, y, width, height = one["bbox"]
        assert mask.sum() == one["area"] == mask[y : y + height, x : x + width].sum()
        assert mask[y].any()
        assert mask[y + height - 1].any()
    record = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert (len(record["images"]), record["annotations"]) == (4, [])


@pytest.mark.parametrize("to", FORMATS)
def test_preview(dataset: Dataset, tmp_path: Path, to: str) -> None:
    convert(dataset, to=to, out=tmp_path / "out", preview=3)
    width, height, _ = image_size(tmp_path / "out/preview.png")
    assert (width, height) == (2 * 360, 2 * 378)  # three tiles, two in a row


def test_progress_hears_of_every_image(dataset: Dataset, tmp_path: Path) -> None:
    from contextlib import nullcontext

    from toolkit.progress import Progress

    heard: list[float] = []
    totals: list[int] = []

    class Listening(Progress):
        def advance(self, steps: float = 1, **figures: float | str) -> None:
            heard.append(steps)
            assert "rate" in figures

    def listen(total: int) -> Any:
        totals.append(total)
        return nullcontext(Listening())

    convert(dataset, to="yolo", out=tmp_path / "out", progress=listen)
    assert totals == [10]
    assert sum(heard) == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "yolo5"}, "did you mean 'yolo'"),
        ({"connectivity": 6}, "--connectivity 6"),
        ({"min_area": 0}, "--min-area 0"),
        ({"backgrounds": 1.5}, "--backgrounds 1.5"),
        ({"backgrounds": -1}, "--backgrounds -1"),
        ({"images": "move"}, "--images move"),
        ({"classes": "every"}, "--classes every"),
        ({"classes": {"dent": "x"}}, "'scratch'"),
        ({"classes": {"dent": "x", "scratch": "y", "scrtch": "z"}}, "'scrtch'"),
        ({"segmentation": "outline"}, "--segmentation outline"),
        ({"image_size": 0}, "--image-size 0"),
        ({"image_size": 10**22}, "--image-size 1e"),
        ({"mask_threshold": -1}, "--mask-threshold -1"),
        ({"mask_threshold": 9, "mask_values": {1: "x"}}, "exclude each other"),
    ],
)
def test_wrong_options(
    dataset: Dataset, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        convert(dataset, **{"to": "yolo", "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()
