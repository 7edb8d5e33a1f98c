"""Drift: have the scores changed since the calibration?

`drift_test` may be repeated after every image: its false-alarm rate holds over all tests together.
The Kolmogorov-Smirnov test, the population stability index and the shift of the mean embedding
describe one batch, looked at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = Sequence[float] | NDArray[np.floating]

_POWERS = np.array([0.1, 0.3, 0.5, 0.7])
_EARLY = 100
"""A change among the first hundred images is expected as much as one at any later time."""


@dataclass(frozen=True)
class Drift:
    """The result of a drift test.

    Attributes:
        alarm_at: number of new images after which the alarm is raised; None if there is none.
        log10_evidence: log10 of the evidence against "nothing has changed" after each new image,
            float64 (n,); the alarm is raised where it first reaches -log10(false_alarm_rate).
        false_alarm_rate: probability of ever raising an alarm while nothing changes.
    """

    alarm_at: int | None
    log10_evidence: NDArray[np.float64]
    false_alarm_rate: float


def drift_test(
    scores: Scores, good_scores: Scores, *, false_alarm_rate: float = 0.01, seed: int = 0
) -> Drift:
    """Test new scores for drift, image by image, as often as wanted.

    If calibration and new images are exchangeable, the evidence is a non-negative martingale that
    starts at 1, so that it ever reaches 1 / rate with a probability of at most the rate (Ville's
    inequality). Nothing else is assumed of the scores. See `online_p_values` and `evidence`.

    Drift to higher scores (light, focus, wear, more defects) and to lower ones raises the alarm.
    The more calibration images there are, the sooner it comes.

    Example:
        >>> good = np.random.default_rng(0).normal(size=300)
        >>> drift_test(np.random.default_rng(1).normal(size=1000), good).alarm_at is None
        True
        >>> drift_test(np.random.default_rng(1).normal(2, size=1000), good).alarm_at < 20
        True

    Args:
        scores: raw scores of new images in the order of time.
        good_scores: scores of the good calibration images.
        false_alarm_rate: above 0 and below 1, over all tests.
        seed: of the random numbers that break ties.

    Raises:
        DataError: no new scores, fewer than two good ones, one that is not finite, or a rate
            outside its range.
    """
    if not 0 < false_alarm_rate < 1:
        raise DataError(f"false_alarm_rate={false_alarm_rate}: must be above 0 and below 1")
    found = evidence(online_p_values(scores, good_scores, seed=seed))
    reached = np.flatnonzero(found >= -np.log10(false_alarm_rate))
    return Drift(int(reached[0]) + 1 if len(reached) else None, found, false_alarm_rate)


def online_p_values(scores: Scores, good_scores: Scores, *, seed: int = 0) -> NDArray[np.float64]:
    """Return the smoothed conformal p-value of each new score among all scores before it.

    p = (scores above it + U * scores equal to it, itself included) / (scores so far), U uniform in
    [0, 1). If all are exchangeable, the p-values are independent and uniform (Vovk, Nouretdinov,
    Gammerman, "Testing exchangeability on-line", ICML 2003).

    Example:
        >>> online_p_values([9.0], [1.0, 2.0, 3.0]) < 0.25
        array([ True])

    Returns:
        float64 (n,).

    Raises:
        DataError: as of `drift_test`.
    """
    new, good = _checked(scores, "scores", 1), _checked(good_scores, "good scores", 2)
    random = np.random.default_rng(seed).random(len(new))
    before = sorted(good.tolist())
    pairs = zip(new.tolist(), random.tolist(), strict=True)
    return np.array([_online_p_value(before, score, tie) for score, tie in pairs])


def _online_p_value(before: list[float], score: float, tie: float) -> float:
    """Insert a score among the sorted ones before it, and return its smoothed p-value."""
    insort(before, score)
    above = len(before) - bisect_right(before, score)
    equal = len(before) - above - bisect_left(before, score)
    return (above + tie * equal) / len(before)


def evidence(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log10 of a martingale that grows when p-values are not uniform any more.

    It bets on powers, e p^(e - 1) and e (1 - p)^(e - 1) for e = 0.1, 0.3, 0.5, 0.7 (Vovk et al.
    2003), in equal shares, and spreads its stake over the time at which the change begins: the
    share 100 / ((t + 99) (t + 100)) for image t, so that an alarm comes soon also after a long
    time without change.

    Args:
        p_values: float64 (..., n); several series at once.

    Returns:
        float64 (..., n), after each p-value.
    """
    p = np.clip(np.asarray(p_values, np.float64), 1e-12, 1 - 1e-12)
    running = np.full((*p.shape[:-1], 2 * len(_POWERS)), -np.inf)
    found = np.empty(p.shape)
    for i in range(p.shape[-1]):
        running, found[..., i] = _bet(running, p[..., i, None], i + 1)
    log10: NDArray[np.float64] = found / np.log(10)
    return log10


def _bet(
    running: NDArray[np.float64], p: NDArray[np.float64], t: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logarithms of all bets after p-value number t, and that of their sum."""
    logs = np.concatenate([np.log(p), np.log1p(-p)], axis=-1)
    bets = np.log(np.tile(_POWERS, 2)) + np.repeat(logs, len(_POWERS), axis=-1) * (
        np.tile(_POWERS, 2) - 1
    )
    stake = _EARLY / ((t + _EARLY - 1) * (t + _EARLY))
    running = np.logaddexp(running, np.log(stake / running.shape[-1])) + bets
    waiting = np.log(_EARLY / (t + _EARLY))
    return running, np.logaddexp(np.logaddexp.reduce(running, axis=-1), waiting)


class DriftMonitor:
    """`drift_test`, image by image, for a line that does not end.

    Example:
        >>> good = np.random.default_rng(0).normal(size=300)
        >>> monitor = DriftMonitor(good)
        >>> changed = np.random.default_rng(1).normal(2, size=20)
        >>> alarms = [monitor.add(score) for score in changed]
        >>> monitor.alarm_at == drift_test(changed, good).alarm_at
        True

    Args:
        good_scores: scores of the good calibration images.
        false_alarm_rate: above 0 and below 1, over all tests.
        seed: of the random numbers that break ties.

    Attributes:
        count: new images so far.
        log10_evidence: after the latest of them; 0 before the first.
        alarm_at: number of the image at which the alarm was raised; None if there was none.

    Raises:
        DataError: as of `drift_test`.
    """

    def __init__(
        self, good_scores: Scores, *, false_alarm_rate: float = 0.01, seed: int = 0
    ) -> None:
        if not 0 < false_alarm_rate < 1:
            raise DataError(f"false_alarm_rate={false_alarm_rate}: must be above 0 and below 1")
        self._before = sorted(_checked(good_scores, "good scores", 2).tolist())
        self._random = np.random.default_rng(seed)
        self._running = np.full(2 * len(_POWERS), -np.inf)
        self._needed = -np.log10(false_alarm_rate)
        self.count, self.log10_evidence = 0, 0.0
        self.alarm_at: int | None = None

    def add(self, score: float) -> bool:
        """Take in a finite score; return whether it raised the alarm, which is raised once."""
        self.count += 1
        p = _online_p_value(self._before, score, float(self._random.random()))
        clipped = np.clip(np.array([p]), 1e-12, 1 - 1e-12)
        self._running, found = _bet(self._running, clipped, self.count)
        self.log10_evidence = float(found / np.log(10))
        if self.alarm_at is not None or self.log10_evidence < self._needed:
            return False
        self.alarm_at = self.count
        return True


def kolmogorov_smirnov(scores: Scores, good_scores: Scores) -> tuple[float, float]:
    """Return the largest distance between the two distribution functions, and its p-value.

    The two-sample test of Kolmogorov and Smirnov, exact for small samples. The p-value is for one
    look at one batch: whoever tests every day finds drift sooner or later; see `drift_test`.

    Example:
        >>> distance, p_value = kolmogorov_smirnov(range(50, 150), range(100))
        >>> distance, p_value < 0.001
        (0.5, True)

    Raises:
        DataError: as of `drift_test`.
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(_checked(scores, "scores", 1), _checked(good_scores, "good scores", 2))
    return float(found.statistic), float(found.pvalue)


def population_stability_index(scores: Scores, good_scores: Scores, *, bins: int = 10) -> float:
    """Return the population stability index (PSI) of new scores.

    The sum of (a - g) ln(a / g) over bins that hold equal shares of the good scores, a and g the
    shares of new and good scores, each count raised by one half against empty bins (Siddiqi,
    "Credit Risk Scorecards", 2006: below 0.1 stable, above 0.25 changed). It is a convention
    without an error rate, and large by chance where there are few scores.

    Example:
        >>> population_stability_index(range(100), range(100))
        0.0

    Raises:
        DataError: as of `drift_test`.
    """
    new, good = _checked(scores, "scores", 1), _checked(good_scores, "good scores", 2)
    edges = np.unique(np.quantile(good, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = []
    for values in (new, good):
        places = np.searchsorted(edges, values, side="right")
        counts = np.bincount(places, minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())


def mean_embedding_shift(
    embeddings: NDArray[np.floating],
    good_embeddings: NDArray[np.floating],
    *,
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, float]:
    """Return how far the mean embedding of new images has moved, and the p-value of this.

    The distance of the two means in units of the good images' spread: the maximum mean discrepancy
    with a linear kernel, tested by permutation (Gretton et al., "A kernel two-sample test", JMLR
    13, 2012; for shift of images: Rabanser et al., "Failing loudly", NeurIPS 2019). It finds
    changes that leave the scores alone. The p-value is for one look at one batch.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> good, moved = rng.normal(size=(60, 8)), rng.normal(0.5, size=(40, 8))
        >>> mean_embedding_shift(moved, good)[1]
        0.001

    Args:
        embeddings: one row per new image, float (n, d).
        good_embeddings: of the good calibration images, float (m, d).
        permutations: random divisions that the distance is compared with.
        seed: of these.

    Returns:
        The distance divided by the root of the good images' total variance (0 where it is 0), and
        the p-value, at least 1 / (permutations + 1).

    Raises:
        DataError: no new embedding, fewer than two good ones, other lengths, or values that are not
            finite.
    """
    new, good = np.asarray(embeddings, np.float64), np.asarray(good_embeddings, np.float64)
    if new.ndim != 2 or good.ndim != 2 or new.shape[1] != good.shape[1]:
        raise DataError(f"embeddings {new.shape} and {good.shape}: rows of one length are needed")
    if len(new) < 1 or len(good) < 2:
        raise DataError(f"embeddings: {len(new)} new and {len(good)} good; 1 and 2 are needed")
    if not (np.isfinite(new).all() and np.isfinite(good).all()):
        raise DataError("embeddings: NaN or infinity among them; embed these images again")
    spread = float(np.sqrt(good.var(axis=0, ddof=1).sum()))
    every = np.concatenate([new, good])
    n, total = len(new), every.sum(axis=0)
    rng = np.random.default_rng(seed)
    chosen = [np.arange(n), *(rng.permutation(len(every))[:n] for _ in range(permutations))]
    sums = np.stack([every[rows].sum(axis=0) for rows in chosen])
    distances = np.linalg.norm(sums / n - (total - sums) / len(good), axis=1)
    as_far = int((distances[1:] >= distances[0] * (1 - 1e-12)).sum())
    return (float(distances[0] / spread) if spread else 0.0), (1 + as_far) / (1 + permutations)


def _checked(scores: Scores, name: str, least: int) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64).reshape(-1)
    if len(values) < least:
        raise DataError(f"{name}: {len(values)} given; at least {least} needed")
    if not np.isfinite(values).all():
        raise DataError(f"{name}: NaN or infinity among them; predict these images again")
    return values
