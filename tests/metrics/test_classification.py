import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from toolkit.metrics import MetricError, Undefined, classification_metrics

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
