"""mAP50 on resampled images, against pycocotools on the images that each resample holds."""

import numpy as np
import pytest

from toolkit.metrics import PredictedBoxes, TrueBoxes, box_metrics, resample_counts
from toolkit.metrics.box_bootstrap import map50_resamples, match_boxes

NAMES = ["dent", "scratch", "stain"]


def _boxes(rng, n):
    corner = rng.integers(0, 60, (n, 2))
    return np.hstack([corner, corner + rng.integers(4, 40, (n, 2))]).astype(float)


def _images(seed, n=24):
    """Some images are good; true boxes are found roughly, called wrongly, doubled, or missed."""
    rng = np.random.default_rng(seed)
    truth, said = [], []
    for i in range(n):
        k = 0 if i % 4 == 0 else rng.integers(1, 4)
        boxes, labels = _boxes(rng, k), rng.integers(0, 2, k)
        again = np.vstack([boxes, boxes[: k // 2]])
        near = again + rng.integers(-4, 5, again.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        called = np.concatenate([labels, labels[: k // 2]])
        called = np.where(rng.random(len(called)) < 0.8, called, rng.integers(0, 3, len(called)))
        extra = rng.integers(0, 3)
        near, called = np.vstack([near, _boxes(rng, extra)]), np.append(called, [0] * extra)
        truth.append(TrueBoxes(boxes, labels))
        said.append(PredictedBoxes(near, rng.random(len(near)), called.astype(int)))
    return truth, said


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_pycocotools_on_all_images(seed):
    truth, said = _images(seed)
    whole = box_metrics(truth, said, class_names=NAMES, engine="pycocotools").map50
    found = match_boxes(truth, said, n_classes=3)
    ones = np.ones((1, len(truth)), np.int64)
    assert map50_resamples(found, ones) == pytest.approx([whole], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycocotools_on_each_resample(seed):
    truth, said = _images(seed)
    strata = ["good" if not len(one.labels) else "defect" for one in truth]
    counts = resample_counts(strata, n_resamples=15, seed=seed)
    drawn = map50_resamples(match_boxes(truth, said, n_classes=3), counts)
    for place, count in enumerate(counts):
        chosen = np.repeat(np.arange(len(truth)), count)
        whole = box_metrics(
            [truth[i] for i in chosen],
            [said[i] for i in chosen],
            class_names=NAMES,
            engine="pycocotools",
        )
        assert drawn[place] == pytest.approx(whole.map50, abs=1e-12)


def test_only_the_best_hundred_of_an_image():
    """As in COCO: the true box is found by the 101st alone."""
    box = np.array([[0.0, 0, 10, 10]])
    far = np.tile([[50.0, 50, 60, 60]], (100, 1))
    truth = [TrueBoxes(box, np.array([0]))]
    said = [
        PredictedBoxes(np.vstack([far, box]), np.linspace(1, 0.1, 101), np.zeros(101, np.int64))
    ]
    found = map50_resamples(match_boxes(truth, said, n_classes=1), np.ones((1, 1), np.int64))
    assert found == pytest.approx([0.0])


def test_nothing_said():
    truth, _ = _images(0, n=6)
    none = [PredictedBoxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))] * 6
    found = map50_resamples(match_boxes(truth, none, n_classes=3), np.ones((2, 6), np.int64))
    assert found.tolist() == [0.0, 0.0]


def test_no_true_box_at_all():
    _, said = _images(0, n=2)
    empty = [TrueBoxes(np.zeros((0, 4)), np.zeros(0, np.int64))] * 2
    found = match_boxes(empty, said, n_classes=3)
    assert map50_resamples(found, np.ones((1, 2), np.int64)) is None
