"""Significant differences: paired, on the same images; ranks by value, and the top group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.leaderboards.test_render import ROW
from toolkit.leaderboards.differences import differences, rank_rows, resampled_values
from toolkit.leaderboards.model import Difference
from toolkit.leaderboards.rows import EntryMetrics
from toolkit.metrics import (
    Interval,
    PredictedBoxes,
    TrueBoxes,
    bootstrap_mean,
    box_metrics,
    classification_metrics,
    image_difference_intervals,
    image_metrics,
    match_boxes,
    to_json,
)
from toolkit.metrics.bootstrap import seed_shares
from toolkit.metrics.values import Undefined, Value

TYPES = ["good"] * 20 + ["dent"] * 30 + ["scratch"] * 33
TRUTH = np.array([name != "good" for name in TYPES])
IDS = [f"test/{i}.png" for i in range(83)]


def one(scores: np.ndarray, *, order: np.ndarray | None = None, **more: Any) -> EntryMetrics:
    order = np.arange(83) if order is None else order
    metrics = {
        "image": {"auroc": image_metrics(scores, TRUTH).auroc},
        "images": {
            "ids": [IDS[i] for i in order],
            "types": [TYPES[i] for i in order],
            "scores": scores[order].tolist(),
        },
        **more,
    }
    return EntryMetrics(runs=(), metrics=metrics)


def scores(seed: int, *, shift: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=83) + shift * TRUTH


def test_equals_the_paired_interval_of_two_methods() -> None:
    a, b = scores(0, shift=2), scores(1, shift=1)
    shuffled = np.random.default_rng(2).permutation(83)  # runs may store images in any order
    (found,) = differences([[one(a)], [one(b, order=shuffled)]], "auroc")
    # the strata: good images, and each type of defect by itself
    said = image_difference_intervals(a, b, TRUTH, defect_types=TYPES)["auroc"]
    assert isinstance(said, Interval)
    assert (found.low, found.high) == pytest.approx((said.low, said.high), abs=0.02)
    whole = [image_metrics(x, TRUTH).auroc for x in (a, b)]
    assert found.value == pytest.approx(whole[0] - whole[1])  # type: ignore[operator]
    assert found.significant


def test_what_ranks_alike_is_a_tie() -> None:
    a = scores(0, shift=1)
    perfect = TRUTH * 1.0
    found = differences([[one(perfect)], [one(perfect * 2)], [one(a * 3)], [one(a)]], "auroc")
    by_pair = {(d.first, d.second): d for d in found}
    assert (by_pair[0, 1].low, by_pair[0, 1].high) == (0, 0)
    assert not by_pair[2, 3].significant
    assert by_pair[0, 2].significant


def test_seeds_are_averaged_on_each_resample() -> None:
    a, b, c = scores(0, shift=2), scores(1, shift=1), scores(2, shift=1.5)
    (pooled,) = differences([[one(a)], [one(b), one(c)]], "auroc")
    singles = [differences([[one(a)], [one(x)]], "auroc")[0].value for x in (b, c)]
    assert pooled.value == pytest.approx(np.mean(singles))


def flat(value: float) -> EntryMetrics:
    """A seed with the same IoU on every defect: resampling images changes nothing."""
    listed = [value if defect else None for defect in TRUTH]
    images = {**one(TRUTH * 1.0).metrics["images"], "mask_iou": listed}
    return one(TRUTH * 1.0, images=images, masks={"iou": value})


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_without_spread_of_images_the_interval_over_seeds_is_that_of_student(n: int) -> None:
    values = np.random.default_rng(n).uniform(0.3, 0.9, n)
    seeds = [flat(value) for value in values]
    (row,) = resampled_values([seeds], "mask_iou")
    assert row is not None
    error = values.std(ddof=1) / np.sqrt(n)
    low, high = stats.t.interval(0.8, n - 1, loc=values.mean(), scale=error)
    assert np.quantile(row, [0.1, 0.9]) == pytest.approx([low, high], abs=0.25 * (high - low))
    (single,) = resampled_values([seeds[:1]], "mask_iou")
    assert single is not None
    assert single.std() == pytest.approx(0, abs=1e-12)


def test_shares_of_seeds_have_the_distribution_of_student() -> None:
    values = np.array([0.2, 0.5, 0.6, 0.9])
    drawn = seed_shares(4, n_resamples=20_000) @ values
    scaled = (drawn - values.mean()) / (values.std(ddof=1) / 2)
    assert stats.kstest(scaled, stats.t(3).cdf).statistic < 0.015


def test_what_a_seed_does_to_both_rows_is_no_difference_between_them() -> None:
    values = np.array([0.4, 0.5, 0.9])
    (found,) = differences(
        [[flat(v + 0.05) for v in values], [flat(v) for v in values]], "mask_iou"
    )
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))


def test_equal_methods_that_differ_by_seeds_alone_seldom_differ_significantly() -> None:
    """Two methods of equal skill, five seeds each, whose images all follow the seed."""
    rng = np.random.default_rng(0)
    wrong = {"seeds counted": 0, "first seeds alone": 0}
    for _ in range(60):
        rows = [[flat(value) for value in 0.6 + 0.1 * rng.standard_normal(5)] for _ in range(2)]
        wrong["seeds counted"] += differences(rows, "mask_iou")[0].significant
        single = [row[:1] for row in rows]
        wrong["first seeds alone"] += differences(single, "mask_iou")[0].significant
    assert wrong["first seeds alone"] == 60  # which is why several seeds are worth their time
    assert wrong["seeds counted"] <= 8  # 5 % of 60 is 3


@pytest.mark.parametrize(
    "other",
    [
        # other images: nothing can be paired
        {"images": {"ids": ["x"], "types": ["good"], "scores": [0.0]}},
        # made by an earlier version, which did not list images
        {"images": None},
    ],
)
def test_what_cannot_be_paired_is_not_compared(other: dict[str, Any]) -> None:
    a, b = scores(0, shift=2), scores(1, shift=1)
    assert differences([[one(a)], [one(b, **other)]], "auroc") == ()
    found = differences([[one(a)], [one(b)], [one(b, **other)]], "auroc")
    assert [(d.first, d.second) for d in found] == [(0, 1)]
    assert ranked([0.9, 0.8, 0.7], found, "auroc")[2] == (3, False)


def test_masks_are_compared_on_the_defects_that_have_them() -> None:
    rng = np.random.default_rng(0)
    ious = [np.where(TRUTH, rng.uniform(low, 1, 83), np.nan) for low in (0.5, 0.2)]

    def masked(iou: np.ndarray) -> EntryMetrics:
        listed = [None if np.isnan(v) else float(v) for v in iou]
        images = {**one(scores(0, shift=1)).metrics["images"], "mask_iou": listed}
        return one(scores(0, shift=1), images=images, masks={"iou": float(np.nanmean(iou))})

    (found,) = differences([[masked(ious[0])], [masked(ious[1])]], "mask_iou")
    gap = (ious[0] - ious[1])[TRUTH]
    said = bootstrap_mean(gap, [name for name in TYPES if name != "good"])
    assert isinstance(said, Interval)
    assert found.value == pytest.approx(gap.mean())
    assert (found.low, found.high) == pytest.approx((said.low, said.high), abs=0.02)


def test_costs_are_not_resampled() -> None:
    quick = one(scores(0, shift=1), speed={"ms_per_image_median": 3.0})
    assert differences([[quick], [quick]], "latency") == ()
    assert ranked([1.0, 2.0], (), "latency") == [(1, False), (2, False)]
    assert ranked([0.9], (), "auroc") == [(1, False)]


def ranked(
    values: list[Value], found: Sequence[Difference], sort: str
) -> list[tuple[int | None, bool]]:
    rows = [replace(ROW, values={sort: value}) for value in values]
    return [(row.rank, row.in_top_group) for row in rank_rows(rows, found, sort)]


@pytest.mark.parametrize(
    ("values", "significant", "sort", "expected"),
    [
        # by value, whatever is significant; the mark is the difference from the best alone
        (
            [0.9, 0.8, 0.7, 0.6], {(0, 3), (1, 3)}, "auroc",
            [(1, True), (2, True), (3, True), (4, False)],
        ),
        (
            [0.9, 0.8, 0.7, 0.6], {(0, 1), (0, 3)}, "auroc",
            [(1, True), (2, False), (3, True), (4, False)],
        ),
        # equal values share a rank
        ([0.9, 0.9, 0.7, 0.7], set(), "auroc", [(1, True), (1, True), (3, True), (3, True)]),
        # where less is better, the difference of two rows in order is negative
        ([0.1, 0.2, 0.3, 0.4], {(0, 3)}, "fpr", [(1, True), (2, True), (3, True), (4, False)]),
        # without a value there is no rank
        ([0.9, 0.8, Undefined("no boxes"), Undefined("no boxes")], {(0, 1)}, "map50",
         [(1, True), (2, False), (None, True), (None, True)]),
    ],
)  # fmt: skip
def test_rows_are_ranked_by_value_and_the_top_group_is_marked(
    values: list[Value],
    significant: set[tuple[int, int]],
    sort: str,
    expected: list[tuple[int | None, bool]],
) -> None:
    sign = -1 if sort == "fpr" else 1
    known = [i for i, value in enumerate(values) if not isinstance(value, Undefined)]
    found = [
        Difference(i, j, sign * 0.1, low=0.05 if (i, j) in significant else -0.3, high=0.3)
        for i in known
        for j in known
        if i < j
    ]
    expected = [(rank, top and rank is not None) for rank, top in expected]
    assert ranked(values, found, sort) == expected


@pytest.mark.parametrize(
    ("sort", "value"),
    [
        ("class_accuracy", 1 - 43 / 83),
        ("class_balanced_accuracy", 1 - (0.5 + 2 / 3 + 13 / 33) / 3),
        # of one class
        ("classification.recall_by_class.scratch", 1 - 13 / 33),
    ],
)
def test_classes(sort: str, value: float) -> None:
    """All right against half of the good, two thirds of the dents and 13 scratches."""
    said = ["good"] * 10 + ["dent"] * 30 + ["good"] * 10 + ["scratch"] * 13 + ["dent"] * 20
    right = _classified(TYPES)
    wrong = _classified(said)
    (found,) = differences([[right], [wrong]], sort)
    assert found.value == pytest.approx(value)
    assert found.low < value < found.high
    assert found.significant
    (same,) = differences([[right], [right]], sort)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_runs_of_before_have_no_classes_to_compare() -> None:
    assert differences([[_classified(TYPES)], [one(TRUTH * 1.0)]], "class_accuracy") == ()


def _classified(said: list[str]) -> EntryMetrics:
    names = sorted(set(TYPES))
    index = {name: i for i, name in enumerate(names)}
    found = classification_metrics(
        [index[t] for t in TYPES], [index[s] for s in said], class_names=names
    )
    plain = one(TRUTH * 1.0)
    images = {**plain.metrics["images"], "true_classes": TYPES, "pred_classes": said}
    return EntryMetrics(
        runs=(), metrics={**plain.metrics, "images": images, "classification": to_json(found)}
    )


def test_boxes() -> None:
    """One finds every defect, the other only the dents, and beside them something good."""
    right, other = _boxed({"dent", "scratch"}), _boxed({"dent"}, order=5)
    (found,) = differences([[right], [other]], "map50")
    # all of one class, none of the other
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))
    assert found.significant
    (same,) = differences([[other], [_boxed({"dent"})]], "map50")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert differences([[right], [one(TRUTH * 1.0)]], "map50") == ()


def _boxed(found: set[str], *, order: int | None = None) -> EntryMetrics:
    """Boxes of a run that has its images in some order; on good ones there is a weak false one."""
    shuffled = np.arange(83) if order is None else np.random.default_rng(order).permutation(83)
    plain = one(TRUTH * 1.0, order=shuffled)
    names = ["dent", "scratch"]
    truth, said = [], []
    for i in shuffled:
        box, label = np.array([[5.0, 5, 20, 20]]), np.array([0])
        there = TYPES[i] in names
        if there:
            label = np.array([names.index(TYPES[i])])
        truth.append(TrueBoxes(box[:there], label[:there]))
        hit = TYPES[i] in found
        score = np.array([0.9 if hit else 0.1 + i / 1000])
        said.append(PredictedBoxes(box if hit else box + 40, score, label))
    detections = match_boxes(truth, said, n_classes=2)
    figures = box_metrics(truth, said, class_names=names)
    return EntryMetrics(
        runs=(),
        metrics={
            **plain.metrics,
            "boxes": to_json(figures),
            "detections": {
                f.name: getattr(detections, f.name).tolist() for f in fields(detections)
            },
        },
    )
