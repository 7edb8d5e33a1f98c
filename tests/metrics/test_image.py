"""Image-level metrics against scikit-learn and against hand-made cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from toolkit.metrics import MetricError, Undefined, decision_metrics, flagged, image_metrics

G, D = False, True


def random_case(seed: int, *, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 83 images, in few levels (ties) or all different; both classes present."""
    rng = np.random.default_rng(seed)
    truth = rng.random(83) < 0.7
    truth[:2] = [True, False]
    scores = rng.normal(size=83) + truth
    if levels:
        scores = np.round(scores * levels) / levels
    return scores * 100.0, truth


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_equal_scikit_learn(seed, levels):
    scores, truth = random_case(seed, levels=levels)
    ours = image_metrics(scores, truth)
    assert ours.auroc == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)
    assert ours.average_precision == pytest.approx(
        sk.average_precision_score(truth, scores), abs=1e-12
    )
    f1s = [sk.f1_score(truth, scores >= t) for t in np.unique(scores)]
    assert ours.f1_max == pytest.approx(max(f1s), abs=1e-12)
    assert sk.f1_score(truth, scores >= ours.f1_max_threshold) == pytest.approx(max(f1s), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", range(5))
def test_operating_points_equal_the_roc_curve(seed, levels):
    scores, truth = random_case(seed, levels=levels)
    ours = image_metrics(scores, truth)
    fpr, tpr, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    assert ours.tpr_at_fpr_1 == pytest.approx(tpr[fpr <= 0.01].max(), abs=1e-12)
    assert ours.tpr_at_fpr_5 == pytest.approx(tpr[fpr <= 0.05].max(), abs=1e-12)
    assert ours.fpr_at_tpr_95 == pytest.approx(fpr[tpr >= 0.95].min(), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("seed", range(5))
def test_decisions_equal_scikit_learn(seed, levels):
    scores, truth = random_case(seed, levels=levels)
    # a threshold that is itself a score: it must be flagged (>=)
    threshold = float(scores[7])
    said = scores >= threshold
    ours = image_metrics(scores, truth, threshold=threshold).decisions
    tn, fp, fn, tp = sk.confusion_matrix(truth, said, labels=[False, True]).ravel()
    assert (ours.tn, ours.fp, ours.fn, ours.tp) == (tn, fp, fn, tp)
    assert ours.f1 == pytest.approx(sk.f1_score(truth, said))
    assert ours.precision == pytest.approx(sk.precision_score(truth, said))
    assert ours.recall == pytest.approx(sk.recall_score(truth, said))
    assert ours.accuracy == pytest.approx(sk.accuracy_score(truth, said))
    assert ours.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, said))


@pytest.mark.parametrize(
    ("scores", "truth", "auroc", "ap", "f1_max", "threshold"),
    [
        # perfect: the highest threshold with the best F1 is the lowest defect score
        ([1, 2, 3, 4], [G, G, D, D], 1.0, 1.0, 1.0, 3.0),
        # upside down
        ([4, 3, 2, 1], [G, G, D, D], 0.0, (1 / 3 + 2 / 4) / 2, 2 / 3, 1.0),
        # all scores equal: chance, whatever the order
        ([5, 5, 5, 5], [G, D, G, D], 0.5, 0.5, 2 / 3, 5.0),
        # one tie between a good and a defect image counts half
        ([1, 2, 2, 3], [G, G, D, D], 0.875, (1 + 2 / 3) / 2, 0.8, 2.0),
        # negative and huge scores are only ranked: no sigmoid, no clamp
        ([-1e30, -1e20, 1e20, 1e30], [G, G, D, D], 1.0, 1.0, 1.0, 1e20),
        # scores that float32 or a sigmoid would tie
        ([50.0, 50.000000001], [G, D], 1.0, 1.0, 1.0, 50.000000001),
    ],
)
def test_by_hand(scores, truth, auroc, ap, f1_max, threshold):
    ours = image_metrics(scores, truth)
    assert ours.auroc == auroc
    assert ours.average_precision == pytest.approx(ap)
    assert ours.f1_max == pytest.approx(f1_max)
    assert ours.f1_max_threshold == threshold


def test_all_good_has_reasons_not_numbers():
    ours = image_metrics([0.1, 0.9], [G, G], threshold=0.5)
    none = Undefined("no defect images")
    for value in (ours.auroc, ours.average_precision, ours.f1_max, ours.f1_max_threshold):
        assert value == none
    for value in (ours.tpr_at_fpr_1, ours.fpr_at_tpr_95):
        assert value == none
    assert ours.decisions.f1 == ours.decisions.recall == ours.decisions.balanced_accuracy == none
    assert ours.decisions.false_alarm_rate == 0.5
    assert ours.decisions.accuracy == 0.5


def test_all_defect_has_reasons_not_numbers():
    ours = image_metrics([0.1, 0.9], [D, D], threshold=2.0)
    none = Undefined("no good images")
    for value in (ours.auroc, ours.tpr_at_fpr_5, ours.fpr_at_tpr_95):
        assert value == none
    assert ours.average_precision == 1.0
    assert ours.f1_max == 1.0
    assert ours.decisions.balanced_accuracy == ours.decisions.false_alarm_rate == none
    assert ours.decisions.precision == Undefined("no image was flagged")
    assert ours.decisions.f1 == 0.0


def test_no_threshold_no_decisions():
    assert image_metrics([1, 2], [G, D]).decisions == Undefined("no threshold was given")


def test_one_threshold_per_image():
    # two folds whose models score on different scales
    scores, truth = [0.2, 0.8, 20.0, 80.0], [G, D, G, D]
    ours = image_metrics(scores, truth, threshold=[0.5, 0.5, 50.0, 50.0])
    assert ours.decisions.accuracy == 1.0


def test_each_type_against_all_good():
    scores = np.array([1.0, 2.0, 3.0, 1.5, 0.5, 4.0])
    truth = np.array([G, G, D, D, D, D])
    types = ["good", "good", "dent", "dent", "scratch", "scratch"]
    ours = image_metrics(scores, truth, defect_types=types).auroc_by_type
    assert list(ours) == ["dent", "scratch"]
    for name in ours:
        chosen = ~truth | (np.array(types) == name)
        assert ours[name] == pytest.approx(sk.roc_auc_score(truth[chosen], scores[chosen]))


def test_types_without_good_images_are_undefined():
    ours = image_metrics([1.0], [D], defect_types=["dent"])
    assert ours.auroc_by_type == {"dent": Undefined("no good images")}


@pytest.mark.parametrize(
    ("scores", "truth", "settings"),
    [
        # a method that diverged
        ([0.1, float("nan")], [G, D], {}),
        ([0.1, float("inf")], [G, D], {}),
        # nothing to score
        ([], [], {}),
        # one score too few
        ([0.1], [G, D], {}),
        # class ids instead of booleans
        ([0.1, 0.2], [0, 2], {}),
        # a anomaly map where a score belongs
        ([[0.1, 0.2]], [[G, D]], {}),
        ([0.1, 0.2], [G, D], {"threshold": float("nan")}),
        ([0.1, 0.2], [G, D], {"threshold": [0.1, 0.2, 0.3]}),
        ([0.1, 0.2], [G, D], {"defect_types": ["dent"]}),
    ],
)
def test_refuses(scores, truth, settings):
    with pytest.raises(MetricError):
        image_metrics(scores, truth, **settings)


def test_decisions_refuse_unequal_lengths():
    with pytest.raises(MetricError):
        decision_metrics([G], [G, D])


def test_flagging_compares_in_float64():
    # in float32 both sides would round to the same number
    assert not flagged(np.array([0.1], dtype=np.float32), float(np.float32(0.1)) + 1e-12)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({defect for _, defect in rows}) == 2
    )
)
def test_invariants(rows):
    scores = np.array([score for score, _ in rows], dtype=float)
    truth = np.array([defect for _, defect in rows])
    ours = image_metrics(scores, truth)
    # an increasing transformation changes no ranking
    assert image_metrics(np.exp(scores), truth).auroc == ours.auroc
    # turning scores and truth round leaves the area as it is
    assert image_metrics(-scores, ~truth).auroc == ours.auroc
    # so does the order of the images
    assert image_metrics(scores[::-1], truth[::-1]) == ours
    assert ours.tpr_at_fpr_1 <= ours.tpr_at_fpr_5


def test_recall_of_each_type_at_the_threshold():
    truth = [G, D, D, D]
    types = ["good", "dent", "dent", "scratch"]
    ours = image_metrics([0.9, 0.8, 0.1, 0.2], truth, threshold=0.5, defect_types=types)
    assert ours.recall_by_type == {"dent": 0.5, "scratch": 0.0}
    without = image_metrics([0.9, 0.8, 0.1, 0.2], truth, defect_types=types).recall_by_type
    assert without["dent"] == Undefined("no threshold was given")
    assert image_metrics([1, 2], [G, D]).recall_by_type == {}
