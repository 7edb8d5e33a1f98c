import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from toolkit.metrics import MetricError, f1_threshold, false_alarm_threshold

G, D = False, True
TINY = math.nextafter(1.0, 2.0)


@pytest.mark.parametrize(
    ("scores", "truth", "threshold"),
    [
        # the middle of the gap that parts good from defect
        ([1, 2, 4, 5], [G, G, D, D], 3.0),
        # order does not matter
        ([5, 1, 4, 2], [D, G, D, G], 3.0),
        # flag everything when that is best: at the lowest score, which >= includes
        ([4, 3, 2, 1], [G, G, D, D], 1.0),
        # equally good thresholds (F1 2/3 at 4 and at 1): the highest, with the fewest alarms
        ([4, 3, 2, 1], [D, G, G, D], 3.5),
        # only defects: everything is flagged
        ([2, 3], [D, D], 2.0),
        # a tie between good and defect cannot be parted
        ([1, 2, 2], [G, G, D], 1.5),
        # neighbouring floats have no middle: the upper one, so that the lower is not flagged
        ([1.0, TINY], [G, D], TINY),
        # huge scores of both signs do not overflow
        ([-1.7e308, 1.7e308], [G, D], 0.0),
    ],
)
def test_f1_threshold_by_hand(scores, truth, threshold):
    assert f1_threshold(scores, truth) == threshold


@pytest.mark.parametrize("seed", range(5))
def test_f1_threshold_is_the_best(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random(40) < 0.4
    truth[0] = True
    scores = np.round(rng.normal(size=40) + truth, 1)
    best = max(f1_score(truth, scores >= t) for t in np.unique(scores))
    assert f1_score(truth, scores >= f1_threshold(scores, truth)) == pytest.approx(best)


def test_without_defects_it_falls_back_to_the_good_quantile():
    good = np.arange(20.0)
    assert f1_threshold(good, np.zeros(20, dtype=bool)) == false_alarm_threshold(good, 0.05) == 18.5
    assert f1_threshold(good, np.zeros(20, dtype=bool), fallback_rate=0.1) == 17.5


@pytest.mark.parametrize(
    ("good", "rate", "threshold"),
    [
        # 1 of 20 is 5 %
        (range(20), 0.05, 18.5),
        # 1 of 20 is more than 4.9 %: none allowed, just above the highest
        (range(20), 0.049, math.nextafter(19.0, math.inf)),
        # three tied at the top and one allowed: none can be flagged alone
        ([1, 2, 5, 5, 5], 0.2, math.nextafter(5.0, math.inf)),
        # ties below the allowed one
        ([1, 2, 2, 5], 0.25, 3.5),
        # all allowed
        ([1, 2], 1.0, 1.0),
        # 29 of 100: 0.29 * 100 is 28.999… in floats
        (range(100), 0.29, 70.5),
    ],
)
def test_false_alarm_threshold_by_hand(good, rate, threshold):
    assert false_alarm_threshold(list(good), rate) == threshold


@pytest.mark.parametrize("seed", range(5))
def test_false_alarm_threshold_keeps_its_promise(seed):
    rng = np.random.default_rng(seed)
    good = np.round(rng.normal(size=37), 1)
    for rate in (0.0, 0.01, 0.05, 0.3, 0.9):
        threshold = false_alarm_threshold(good, rate)
        assert np.mean(good >= threshold) <= rate
        lower = good[good < threshold]
        # the next lower score would break it
        assert not lower.size or np.mean(good >= lower.max()) > rate


@pytest.mark.parametrize(
    ("good", "rate"), [([1.0], -0.1), ([1.0], 1.1), ([], 0.1), ([float("nan")], 0.1)]
)
def test_refuses(good, rate):
    with pytest.raises(MetricError):
        false_alarm_threshold(good, rate)
