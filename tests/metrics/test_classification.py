import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from toolkit.metrics import (
    Interval,
    MetricError,
    Undefined,
    classification_intervals,
    classification_metrics,
    classification_resamples,
    resample_counts,
)

NAMES = ["good", "broken_large", "broken_small", "contamination"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("present", [4, 3, 1])
def test_equal_to_scikit_learn(seed, present):
    """Also where some classes have no images but are answered."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, present, 80)
    truth[:present] = range(present)
    said = np.where(rng.random(80) < 0.6, truth, rng.integers(0, 4, 80))
    ours = classification_metrics(truth, said, class_names=NAMES)
    labels = list(range(present))
    assert ours.accuracy == pytest.approx(sk.accuracy_score(truth, said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer that is no true class
        assert ours.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, said))
    assert ours.macro_f1 == pytest.approx(sk.f1_score(truth, said, labels=labels, average="macro"))
    recalls = sk.recall_score(truth, said, labels=labels, average=None)
    assert [ours.recall_by_class[name] for name in NAMES[:present]] == pytest.approx(list(recalls))
    assert ours.geometric_mean == pytest.approx(np.prod(recalls) ** (1 / present))
    np.testing.assert_array_equal(ours.confusion, sk.confusion_matrix(truth, said, labels=range(4)))


def test_by_hand():
    ours = classification_metrics([0, 0, 1, 1, 2], [0, 1, 1, 1, 0], class_names=NAMES)
    assert ours.confusion == ((1, 1, 0, 0), (0, 2, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0))
    assert ours.recall_by_class["contamination"] == Undefined("no images of this class")
    assert ours.accuracy == 0.6
    assert ours.balanced_accuracy == 0.5
    # one class is never recognised
    assert ours.geometric_mean == 0.0


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        # nothing to score
        ([], []),
        # an answer too few
        ([0, 1], [0]),
        # labels without a name
        ([0, 4], [0, 0]),
        ([0, 0], [0, -1]),
        # probabilities instead of labels
        ([0, 1], [0.2, 0.8]),
    ],
)
def test_refuses(truth, said):
    with pytest.raises(MetricError):
        classification_metrics(truth, said, class_names=NAMES)


def _answers(seed):
    """Answers for 60 images of three classes; a fourth is answered and never true."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], [30, 20, 10])
    return truth, np.where(rng.random(60) < 0.7, truth, rng.integers(0, 4, 60))


@pytest.mark.parametrize("seed", range(3))
def test_each_resample_is_scored_as_the_images_it_holds(seed):
    truth, said = _answers(seed)
    counts = resample_counts(truth, n_resamples=20, seed=seed)
    drawn = classification_resamples(truth, said, counts, class_names=NAMES)
    for place, count in enumerate(counts):
        whole = classification_metrics(
            np.repeat(truth, count), np.repeat(said, count), class_names=NAMES
        )
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "geometric_mean"):
            assert drawn[name][place] == pytest.approx(getattr(whole, name))
        for name in NAMES[:3]:
            assert drawn[f"recall_by_class.{name}"][place] == pytest.approx(
                whole.recall_by_class[name]
            )
    assert "recall_by_class.contamination" not in drawn


def test_intervals_hold_the_value_and_narrow_with_more_images():
    truth, said = _answers(0)
    few = classification_intervals(truth, said, class_names=NAMES)
    many = classification_intervals(np.tile(truth, 9), np.tile(said, 9), class_names=NAMES)
    whole = classification_metrics(truth, said, class_names=NAMES)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "geometric_mean"):
        assert few[name].low < getattr(whole, name) < few[name].high
        wide, narrow = (one[name].high - one[name].low for one in (few, many))
        assert narrow == pytest.approx(wide / 3, rel=0.25)  # the square root of 9


def test_every_answer_right():
    truth, _ = _answers(0)
    assert set(classification_intervals(truth, truth, class_names=NAMES).values()) == {
        Interval(1.0, 1.0)
    }


def test_one_image_of_each_class_has_no_interval():
    found = classification_intervals([0, 1], [0, 0], class_names=NAMES)
    assert found["accuracy"] == Undefined("no stratum holds two images")
