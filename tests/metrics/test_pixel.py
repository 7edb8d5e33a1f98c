"""Pixel-level metrics against scikit-learn, pyaupro and a threshold-by-threshold count."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from sklearn import metrics as sk

from toolkit.metrics import MetricError, Undefined, pixel_metrics, to_json

LIMITS = (0.3, 0.05, 1.0)


def cut_trapezoid(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Area under a curve up to `limit`, end point interpolated, divided by `limit`."""
    inside = x <= limit
    x_end, y_end = np.append(x[inside], limit), np.append(y[inside], 1.0)
    if not inside.all():
        k = int(inside.sum())
        y_end[-1] = y[k - 1] + (y[k] - y[k - 1]) * (limit - x[k - 1]) / (x[k] - x[k - 1])
    return float(np.sum(np.diff(x_end) * (y_end[1:] + y_end[:-1]) / 2) / limit)


def aupro_by_thresholds(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """The protocol word for word: at each distinct score, flag, and measure each region."""
    regions = []
    for index, mask in enumerate(masks):
        labels, n = label(mask, structure=np.ones((3, 3)))
        regions += [maps[index][labels == k] for k in range(1, n + 1)]
    thresholds = np.unique(maps)[::-1]

    def share_flagged(scores: np.ndarray) -> np.ndarray:
        return 1.0 - np.searchsorted(np.sort(scores), thresholds, "left") / scores.size

    fpr = share_flagged(maps[~masks])
    pro = np.mean([share_flagged(scores) for scores in regions], axis=0)
    return cut_trapezoid(np.append(0.0, fpr), np.append(0.0, pro), limit)


def aupro_by_pyaupro(maps: np.ndarray, masks: np.ndarray, limit: float, *, ties: bool) -> float:
    """pyaupro without binning.

    Its own code does not join tied scores; where there are ties, the script of MVTec that it ships
    is used, which does but rounds false-positive rates to float32.
    """
    import torch
    from pyaupro import PerRegionOverlap

    metric = PerRegionOverlap(
        thresholds=None, changepoints_only=False, reference_implementation=ties
    )
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int64)))
    fpr, pro = (curve.numpy().astype(np.float64) for curve in metric.compute())
    return cut_trapezoid(np.append(0.0, fpr), np.append(0.0, pro), limit)


def random_case(seed: int, *, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """6 maps of 24x32, two of good images; big regions, a speck, a diagonal, one at the border."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((6, 24, 32), dtype=bool)
    masks[1, 3:12, 5:20] = True
    masks[1, 20, 25] = True  # one pixel
    masks[2, 0:5, 28:32] = True  # in a corner
    masks[2, [10, 11, 12], [3, 4, 5]] = True  # one region by 8-connectivity, three by 4
    masks[3] = rng.random((24, 32)) < 0.3
    masks[4, 23, :] = True  # along the border
    scores = rng.normal(size=masks.shape) + 1.5 * masks - 0.5
    if levels:
        scores = np.round(scores * levels) / levels
    return scores.astype(np.float32), masks


@pytest.mark.parametrize("levels", [None, 20, 2])
@pytest.mark.parametrize("seed", range(4))
def test_ranking_metrics_equal_scikit_learn(seed, levels):
    maps, masks = random_case(seed, levels=levels)
    ours = pixel_metrics(list(zip(maps, masks, strict=True)))
    truth, scores = masks.ravel(), maps.ravel()
    assert ours.auroc == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)
    assert ours.average_precision == pytest.approx(
        sk.average_precision_score(truth, scores), abs=1e-12
    )
    precision, recall, thresholds = sk.precision_recall_curve(truth, scores)
    f1s = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    assert ours.f1_max == pytest.approx(f1s.max(), abs=1e-12)
    assert np.float32(ours.f1_max_threshold) in thresholds
    assert sk.f1_score(truth, scores >= ours.f1_max_threshold) == pytest.approx(ours.f1_max)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("levels", [None, 20, 2])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_the_protocol_word_for_word(seed, levels, limit):
    maps, masks = random_case(seed, levels=levels)
    ours = pixel_metrics(list(zip(maps, masks, strict=True)), limits=[limit])
    assert ours.aupro[limit] == pytest.approx(aupro_by_thresholds(maps, masks, limit), abs=1e-11)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_pyaupro(seed, limit):
    scores, masks = random_case(seed, levels=None)
    # Ranks instead of scores: no ties by construction.
    maps = scores.ravel().argsort().argsort().reshape(scores.shape).astype(np.float32)
    ours = pixel_metrics(list(zip(maps, masks, strict=True)), limits=[limit])
    reference = aupro_by_pyaupro(maps, masks, limit, ties=False)
    assert ours.aupro[limit] == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("levels", [20, 2])
def test_aupro_equals_the_script_of_mvtec_with_ties(levels, limit):
    maps, masks = random_case(0, levels=levels)
    ours = pixel_metrics(list(zip(maps, masks, strict=True)), limits=[limit])
    reference = aupro_by_pyaupro(maps, masks, limit, ties=True)
    assert ours.aupro[limit] == pytest.approx(reference, abs=1e-6)


def one(scores: list[list[float]], mask: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.array(scores, dtype=np.float32), np.array(mask, dtype=bool))]


@pytest.mark.parametrize(
    ("pairs", "limit", "aupro"),
    [
        # perfect
        (one([[1, 0, 0, 2]], [[1, 0, 0, 1]]), 0.3, 1.0),
        # upside down: nothing found before every good pixel is flagged
        (one([[0, 1, 1, 0]], [[1, 0, 0, 1]]), 0.3, 0.0),
        # all tied: the curve is the diagonal, 0.3 / 2 on average up to 0.3
        (one([[5, 5, 5, 5]], [[1, 0, 0, 1]]), 0.3, 0.15),
        # one of two regions found at once, the other after all good pixels, whatever their sizes
        (one([[3, 3, 3, 1, 1, 0]], [[1, 1, 1, 0, 0, 1]]), 0.3, 0.5),
        # half a region found, then half of the good pixels, then the rest: 0.5 up to 0.5, then 1
        (one([[4, 3, 2, 1]], [[1, 0, 1, 0]]), 1.0, 0.5 * 0.5 + 0.5),
        # limit inside a flat piece
        (one([[4, 3, 2, 1]], [[1, 0, 1, 0]]), 0.3, 0.5),
        # limit inside a slope: one good pixel of two ties with the defect, 0 to 1 over FPR 0 to 0.5
        (one([[2, 2, 1]], [[1, 0, 0]]), 0.25, 0.25),
        # limit exactly at a point of the curve
        (one([[2, 2, 1]], [[1, 0, 0]]), 0.5, 0.5),
        # -0.0 ties with 0.0
        (one([[-0.0, 0.0]], [[1, 0]]), 1.0, 0.5),
        (one([[0.0, -0.0]], [[1, 0]]), 1.0, 0.5),
        # diagonal neighbours are one region: half of it found counts half
        (one([[3, 1], [1, 0]], [[1, 0], [0, 1]]), 1.0, 0.5),
        # a good image counts for the false-positive rate: its pixels rank above half of the region
        (
            one([[3, 1]], [[1, 1]]) + one([[2, 2, 2, 2, 2, 2, 2, 0]], [[0] * 8]),
            1.0,
            0.5 * 7 / 8 + 1 / 8,
        ),
    ],
)
def test_aupro_by_hand(pairs, limit, aupro):
    assert pixel_metrics(pairs, limits=[limit]).aupro[limit] == pytest.approx(aupro, abs=1e-12)


def test_counts_regions_and_pixels():
    maps, masks = random_case(0, levels=None)
    masks[3] = False
    ours = pixel_metrics(list(zip(maps, masks, strict=True)))
    assert (ours.n_images, ours.n_regions) == (6, 5)
    assert (ours.n_defect, ours.n_good) == (masks.sum(), (~masks).sum())


def test_only_good_images_have_reasons():
    ours = pixel_metrics([(np.ones((4, 4), np.float32), np.zeros((4, 4), bool))])
    none = Undefined("no defect pixels")
    assert ours.auroc == ours.average_precision == ours.f1_max == ours.f1_max_threshold == none
    assert ours.aupro == {0.3: none, 0.05: none}
    assert (ours.n_good, ours.n_defect, ours.n_regions) == (16, 0, 0)


def test_no_images_have_reasons():
    assert pixel_metrics([]).auroc == Undefined("no defect pixels")


def test_only_defect_pixels_have_reasons():
    ours = pixel_metrics([(np.ones((4, 4), np.float32), np.ones((4, 4), bool))])
    none = Undefined("no good pixels")
    assert ours.auroc == none
    assert ours.aupro == {0.3: none, 0.05: none}
    assert ours.average_precision == ours.f1_max == 1.0


def test_sources_of_pairs_agree():
    """A list, a generator and an object that reads anew each time."""
    maps, masks = random_case(1, levels=20)

    class Folder:
        def __iter__(self):
            return ((scores.copy(), mask.copy()) for scores, mask in zip(maps, masks, strict=True))

    pairs = list(zip(maps, masks, strict=True))
    assert pixel_metrics(pairs) == pixel_metrics(iter(pairs)) == pixel_metrics(Folder())


def test_inputs_are_left_alone():
    maps, masks = random_case(1, levels=20)
    before = maps.copy(), masks.copy()
    pixel_metrics(list(zip(maps, masks, strict=True)))
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(dtype):
    maps, masks = random_case(1, levels=20)
    maps = maps.astype(dtype)
    ours = pixel_metrics(list(zip(maps, masks, strict=True)))
    assert ours.auroc == pytest.approx(sk.roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-3)


def test_sizes_may_differ():
    maps, masks = random_case(2, levels=None)
    pairs = [
        (maps[1], masks[1]),
        (maps[2, :10], masks[2, :10]),
        (maps[3, :, ::2], masks[3, :, ::2]),
    ]
    scores = np.concatenate([scores.ravel() for scores, _ in pairs])
    truth = np.concatenate([mask.ravel() for _, mask in pairs])
    assert pixel_metrics(pairs).auroc == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)


def test_json_names_the_limits():
    maps, masks = random_case(1, levels=None)
    ours = to_json(pixel_metrics(list(zip(maps, masks, strict=True))))
    assert list(json.loads(json.dumps(ours))["aupro"]) == ["0.05", "0.3"]


FLAT, MASK = np.zeros((4, 4), np.float32), np.eye(4, dtype=bool)


@pytest.mark.parametrize(
    ("pairs", "limits"),
    [
        # a map at network size, a mask at image size
        ([(np.zeros((2, 2), np.float32), MASK)], (0.3,)),
        # a stack of maps
        ([(FLAT[None], MASK[None])], (0.3,)),
        # a 0/255 mask
        ([(FLAT, MASK.astype(np.uint8) * 255)], (0.3,)),
        # a model that diverged, also on a good image
        ([(FLAT + np.nan, MASK)], (0.3,)),
        ([(FLAT, MASK), (FLAT + np.inf, MASK & False)], (0.3,)),
        # a float64 that float32 cannot hold
        ([(FLAT.astype(np.float64) + 1e300, MASK)], (0.3,)),
        # per cent instead of a share
        ([(FLAT, MASK)], (30,)),
        ([(FLAT, MASK)], (0.0,)),
    ],
)
def test_refuses(pairs, limits):
    with pytest.raises(MetricError):
        pixel_metrics(pairs, limits=limits)


def test_refuses_maps_that_change_between_readings():
    class Shrinking:
        n = 3

        def __iter__(self):
            self.n -= 1
            return iter([(FLAT, MASK)] * self.n)

    with pytest.raises(MetricError, match="changed"):
        pixel_metrics(Shrinking())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, 2, 8]))
def test_invariants(seed, levels):
    maps, masks = random_case(seed, levels=levels)
    ours = pixel_metrics(list(zip(maps, masks, strict=True)))
    # the order of the images does not matter
    turned = pixel_metrics(list(zip(maps[::-1], masks[::-1], strict=True)))
    assert turned.auroc == ours.auroc
    assert turned.aupro[0.3] == pytest.approx(ours.aupro[0.3], abs=1e-12)
    # nor do mirrored images
    mirrored = pixel_metrics(list(zip(maps[:, ::-1], masks[:, ::-1], strict=True)))
    assert mirrored.aupro[0.05] == pytest.approx(ours.aupro[0.05], abs=1e-12)
    # only ranks count: doubling is exact in floats
    assert pixel_metrics(list(zip(maps * 2, masks, strict=True))).aupro == ours.aupro
    assert all(0.0 <= area <= 1.0 for area in ours.aupro.values())


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("seed", range(3))
def test_regions_take_the_metrics_apart(seed, levels):
    """Any choice of regions against all good pixels, by scikit-learn and by the protocol."""
    maps, masks = random_case(seed, levels=levels)
    ours = pixel_metrics(list(zip(maps, masks, strict=True)), limits=LIMITS)
    regions = ours.regions
    whole = np.average(regions.auroc, weights=regions.n_pixels)
    assert whole == pytest.approx(ours.auroc, abs=1e-12)
    for limit in LIMITS:
        assert regions.aupro[limit].mean() == pytest.approx(ours.aupro[limit], abs=1e-12)
    pixels, fpr_good = [], maps[~masks]
    for index, mask in enumerate(masks):
        labels, n = label(mask, structure=np.ones((3, 3)))
        sizes = sorted(int((labels == k).sum()) for k in range(1, n + 1))
        assert sorted(regions.n_pixels[regions.image == index]) == sizes
        pixels += [(index, labels == k) for k in range(1, n + 1)]
    thresholds = np.unique(maps)[::-1]
    for index in {i for i, _ in pixels}:
        chosen = regions.image == index
        inside = maps[index][masks[index]]
        truth = np.append(np.ones(inside.size), np.zeros(fpr_good.size))
        auroc = np.average(regions.auroc[chosen], weights=regions.n_pixels[chosen])
        assert auroc == pytest.approx(
            sk.roc_auc_score(truth, np.append(inside, fpr_good)), abs=1e-12
        )
        fpr = np.append(0.0, [(fpr_good >= t).mean() for t in thresholds])
        pro = [
            np.append(0.0, [(maps[i][region] >= t).mean() for t in thresholds])
            for i, region in pixels
            if i == index
        ]
        for limit in LIMITS:
            wanted = cut_trapezoid(fpr, np.mean(pro, axis=0), limit)
            assert regions.aupro[limit][chosen].mean() == pytest.approx(wanted, abs=1e-9)


def test_no_regions_without_good_pixels():
    one = (np.ones((2, 2), dtype=np.float32), np.ones((2, 2), dtype=bool))
    assert pixel_metrics([one]).regions.auroc.size == 0
    assert pixel_metrics([]).regions.image.size == 0
