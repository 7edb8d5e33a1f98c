"""Facts of the real bottle, as its authors and an independent count give them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from toolkit.data.check import check_dataset
from toolkit.data.info import ImageKind, Info, Range, dataset_info
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import PROTOCOLS

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def timed_info(bottle_dir: Path) -> tuple[Info, float]:
    started = time.process_time()
    return dataset_info(load_dataset(bottle_dir)), time.process_time() - started


def test_counts(timed_info: tuple[Info, float]) -> None:
    info, _ = timed_info
    assert (info.name, info.layout, info.images) == ("bottle", "mvtec", 292)
    assert info.defect_classes == ("broken_large", "broken_small", "contamination")
    assert {c.label: (c.train, c.test, c.with_mask) for c in info.classes} == {
        "good": (209, 20, 0),
        "broken_large": (0, 20, 20),
        "broken_small": (0, 22, 22),
        "contamination": (0, 21, 21),
    }
    assert info.image_kinds == (ImageKind(900, 900, 3, 292),)


def test_defect_areas(timed_info: tuple[Info, float]) -> None:
    rounded = {
        c.label: (round(a.min, 1), round(a.median, 1), round(a.max, 1))
        for c in timed_info[0].classes
        if (a := c.area_percent) is not None
    }
    assert rounded == {
        "broken_large": (4.1, 11.9, 27.4),
        "broken_small": (0.9, 2.4, 8.1),
        "contamination": (0.6, 7.2, 16.5),
    }


def test_regions(timed_info: tuple[Info, float]) -> None:
    regions = {c.label: c.regions for c in timed_info[0].classes if c.regions is not None}
    assert regions == {
        "broken_large": Range(1, 1, 1),
        "broken_small": Range(1, 1, 3),
        "contamination": Range(1, 1, 2),
    }


def test_info_is_quick(timed_info: tuple[Info, float]) -> None:
    assert timed_info[1] < 15


def test_the_fingerprint_is_stable(bottle_dir: Path, timed_info: tuple[Info, float]) -> None:
    assert load_dataset(bottle_dir).fingerprint == timed_info[0].fingerprint


def test_the_check_finds_nothing(bottle_dir: Path) -> None:
    assert check_dataset(bottle_dir) == []


def test_every_test_image_is_tested_once(bottle_dir: Path) -> None:
    dataset = load_dataset(bottle_dir)
    sizes = {}
    for protocol in PROTOCOLS:
        plan = make_plan(dataset, protocol=protocol)
        tested = [s.id for i in range(plan.folds) for s in plan.fold(dataset, i).test]
        assert len(set(tested)) == len(tested)
        sizes[protocol] = len(tested)
    assert sizes == {"official": 83, "supervised": 83, "balanced": 80}
