"""Intervals against resampling one by one with scikit-learn, and against theory."""

import time

import numpy as np
import pytest
from sklearn import metrics as sk

from toolkit.metrics import (
    Interval,
    MetricError,
    Undefined,
    bootstrap_mean,
    image_difference_intervals,
    image_intervals,
    image_metrics,
    resample_counts,
    to_json,
)

TYPES = ["good"] * 20 + ["broken_large"] * 20 + ["broken_small"] * 22 + ["contamination"] * 21
TRUTH = np.array([name != "good" for name in TYPES])


def scored(seed: int, *, shift: float = 1.0) -> np.ndarray:
    """Scores of 83 images with ties."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=83) + shift * TRUTH, 1)


def test_counts_keep_each_stratum():
    counts = resample_counts(TYPES, n_resamples=50)
    assert counts.shape == (50, 83)
    for name in set(TYPES):
        members = np.array(TYPES) == name
        assert (counts[:, members].sum(axis=1) == members.sum()).all()
    # drawn with replacement: about 1 in e images is left out
    assert np.mean(counts == 0) == pytest.approx(0.36, abs=0.03)


def test_seed_decides():
    same = resample_counts(TYPES, seed=1)
    np.testing.assert_array_equal(resample_counts(TYPES, seed=1), same)
    assert (resample_counts(TYPES, seed=2) != same).any()


@pytest.mark.parametrize("seed", range(3))
def test_intervals_equal_resampling_one_by_one(seed):
    """Each resample written out as a list of images and scored by itself."""
    scores, n = scored(seed), 60
    ours = image_intervals(scores, TRUTH, threshold=0.7, defect_types=TYPES, n_resamples=n, seed=9)
    strata = [("defect", name) if name != "good" else ("good", "") for name in TYPES]
    drawn = [
        np.repeat(np.arange(83), row) for row in resample_counts(strata, n_resamples=n, seed=9)
    ]
    written = {
        "auroc": [sk.roc_auc_score(TRUTH[i], scores[i]) for i in drawn],
        "average_precision": [sk.average_precision_score(TRUTH[i], scores[i]) for i in drawn],
        "f1": [sk.f1_score(TRUTH[i], scores[i] >= 0.7) for i in drawn],
        "recall": [sk.recall_score(TRUTH[i], scores[i] >= 0.7) for i in drawn],
        "accuracy": [sk.accuracy_score(TRUTH[i], scores[i] >= 0.7) for i in drawn],
        "balanced_accuracy": [
            sk.balanced_accuracy_score(TRUTH[i], scores[i] >= 0.7) for i in drawn
        ],
        "false_alarm_rate": [np.mean(scores[i][~TRUTH[i]] >= 0.7) for i in drawn],
    }
    whole = [image_metrics(scores[i], TRUTH[i]) for i in drawn]
    for name in (
        "f1_max",
        "tpr_at_fpr_1",
        "tpr_at_fpr_5",
        "fpr_at_tpr_95",
    ):
        written[name] = [getattr(metrics, name) for metrics in whole]
    assert set(ours) == set(written)
    for name, values in written.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert (ours[name].low, ours[name].high) == pytest.approx((low, high), abs=1e-12), name


def test_differences_are_paired():
    scores, other, n = scored(0), scored(1, shift=0.5), 60
    ours = image_difference_intervals(
        scores, other, TRUTH, threshold=0.7, other_threshold=0.2, n_resamples=n, seed=9
    )
    strata = [("defect", "") if defect else ("good", "") for defect in TRUTH]
    drawn = [
        np.repeat(np.arange(83), row) for row in resample_counts(strata, n_resamples=n, seed=9)
    ]
    auroc = [
        sk.roc_auc_score(TRUTH[i], scores[i]) - sk.roc_auc_score(TRUTH[i], other[i]) for i in drawn
    ]
    accuracy = [
        np.mean(((scores[i] >= 0.7) == TRUTH[i]) * 1.0 - ((other[i] >= 0.2) == TRUTH[i]))
        for i in drawn
    ]
    for name, values in (("auroc", auroc), ("accuracy", accuracy)):
        low, high = np.quantile(values, [0.025, 0.975])
        assert (ours[name].low, ours[name].high) == pytest.approx((low, high), abs=1e-12), name


def test_a_method_does_not_differ_from_itself():
    ours = image_difference_intervals(scored(0), scored(0) * 10, TRUTH)
    assert set(ours.values()) == {Interval(0.0, 0.0)}


def test_decisions_are_compared_only_with_both_thresholds():
    assert "f1" not in image_difference_intervals(scored(0), scored(1), TRUTH, threshold=0.5)


def test_a_clear_difference_is_seen():
    ours = image_difference_intervals(scored(0, shift=4.0), scored(1, shift=0.2), TRUTH)
    assert ours["auroc"].low > 0


def test_value_lies_inside():
    scores = scored(3)
    value = image_metrics(scores, TRUTH, threshold=0.7)
    ours = image_intervals(scores, TRUTH, threshold=0.7, defect_types=TYPES)
    assert ours["auroc"].low < value.auroc < ours["auroc"].high
    assert ours["accuracy"].low < value.decisions.accuracy < ours["accuracy"].high


def test_mean_has_the_width_that_theory_gives():
    """Normal values, one stratum: mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).normal(size=400)
    ours = bootstrap_mean(values, ["all"] * 400, n_resamples=4000)
    error = values.std() / 20
    assert ours.low == pytest.approx(values.mean() - 1.96 * error, abs=0.01)
    assert ours.high == pytest.approx(values.mean() + 1.96 * error, abs=0.01)


def test_strata_narrow_the_mean():
    """Values that only differ between strata do not vary between resamples."""
    ours = bootstrap_mean([0.2] * 10 + [0.8] * 10, ["a"] * 10 + ["b"] * 10)
    assert (ours.low, ours.high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("truth", "reasons"),
    [
        # all good
        ([False] * 4, {"no defect images"}),
        # all defect
        ([True] * 4, {"no good images"}),
    ],
)
def test_no_value_has_a_reason(truth, reasons):
    ours = image_intervals([1, 2, 3, 4], truth, threshold=2.5)
    assert {value.reason for value in ours.values() if isinstance(value, Undefined)} == reasons
    assert isinstance(ours["auroc"], Undefined)
    assert isinstance(ours["balanced_accuracy"], Undefined)
    assert isinstance(ours["accuracy"], Interval)


def test_single_images_have_no_interval():
    ours = image_intervals([1.0, 2.0], [False, True])
    assert ours["auroc"] == Undefined("no stratum holds two images")
    assert bootstrap_mean([0.5], ["a"]) == Undefined("no stratum holds two images")


def test_json_form():
    assert to_json(Interval(0.25, 0.5)) == {"low": 0.25, "high": 0.5}


def test_eight_methods_take_seconds():
    start = time.process_time()
    for seed in range(8):
        image_intervals(scored(seed), TRUTH, threshold=0.7, defect_types=TYPES)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("values", "strata"),
    [([], []), ([0.5], ["a", "b"]), ([float("nan")], ["a"])],
)
def test_refuses(values, strata):
    with pytest.raises(MetricError):
        bootstrap_mean(values, strata)


def test_refuses_types_of_other_length():
    with pytest.raises(MetricError):
        image_intervals([1.0, 2.0], [False, True], defect_types=["dent"])
