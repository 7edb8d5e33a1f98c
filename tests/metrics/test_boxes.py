"""Box metrics against pycocotools used through its files' interface, and by hand."""

import contextlib
import io

import numpy as np
import pytest

from toolkit.errors import MissingExtraError
from toolkit.metrics import MetricError, PredictedBoxes, TrueBoxes, Undefined, box_metrics, boxes

NONE = Undefined("no true boxes")


def true(*rows: tuple[float, ...]) -> TrueBoxes:
    """Rows of x0, y0, x1, y1, label."""
    array = np.array(rows, dtype=float).reshape(-1, 5)
    return TrueBoxes(array[:, :4], array[:, 4].astype(int))


def said(*rows: tuple[float, ...]) -> PredictedBoxes:
    """Rows of x0, y0, x1, y1, label, score."""
    array = np.array(rows, dtype=float).reshape(-1, 6)
    return PredictedBoxes(array[:, :4], array[:, 5], array[:, 4].astype(int))


def random_case(seed: int, n_classes: int) -> tuple[list[TrueBoxes], list[PredictedBoxes]]:
    """30 images: good ones, several boxes per image, jittered hits, false alarms, tied scores."""
    rng = np.random.default_rng(seed)
    truth, predicted = [], []
    for image in range(30):
        n = 0 if image % 5 == 0 else int(rng.integers(1, 5))
        corners = rng.uniform(0, 700, (n, 2))
        boxes = np.hstack([corners, corners + rng.uniform(5, 200, (n, 2))])
        labels = rng.integers(0, n_classes, n)
        truth.append(TrueBoxes(boxes, labels))
        hits = boxes + rng.normal(0, 8, boxes.shape)
        hits[:, 2:] = np.maximum(hits[:, 2:], hits[:, :2] + 1)
        extra = int(rng.integers(0, 4))
        stray = rng.uniform(0, 700, (extra, 2))
        alarms = np.hstack([stray, stray + rng.uniform(5, 200, (extra, 2))])
        swapped = np.where(rng.random(n) < 0.2, rng.integers(0, n_classes, n), labels)
        predicted.append(
            PredictedBoxes(
                np.vstack([hits, alarms]),
                np.round(rng.random(n + extra), 1),
                np.concatenate([swapped, rng.integers(0, n_classes, extra)]),
            )
        )
    return truth, predicted


def pycocotools_stats(truth, predicted, n_classes):
    """The twelve figures of COCOeval.summarize, read in through COCO.loadRes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {
            "id": 1000 * image + k + 1,
            "image_id": image + 7,
            "category_id": int(label) + 3,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
        }
        for image, item in enumerate(truth)
        for k, ((x0, y0, x1, y1), label) in enumerate(
            zip(item.boxes_xyxy, item.labels, strict=True)
        )
    ]
    results = [
        {
            "image_id": image + 7,
            "category_id": int(label) + 3,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(score),
        }
        for image, item in enumerate(predicted)
        for (x0, y0, x1, y1), score, label in zip(
            item.boxes_xyxy, item.scores, item.labels, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image + 7} for image in range(len(truth))],
            "categories": [{"id": k + 3} for k in range(n_classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.fixture(params=["pycocotools", "faster-coco-eval"])
def engine(request):
    if request.param == "faster-coco-eval":
        pytest.importorskip(boxes.ENGINE_PACKAGE)
    return request.param


@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools(seed, n_classes, engine):
    truth, predicted = random_case(seed, n_classes)
    names = ["a", "b", "c"][:n_classes]
    ours = box_metrics(truth, predicted, class_names=names, engine=engine)
    stats = pycocotools_stats(truth, predicted, n_classes)
    assert ours.map50_95 == pytest.approx(stats[0], abs=1e-12)
    assert ours.map50 == pytest.approx(stats[1], abs=1e-12)
    assert ours.ar100 == pytest.approx(stats[8], abs=1e-12)
    assert ours.map50 == pytest.approx(np.mean(list(ours.ap50_by_class.values())))


@pytest.mark.parametrize("seed", range(4))
def test_agnostic_is_one_class(seed):
    truth, predicted = random_case(seed, 3)
    ours = box_metrics(truth, predicted, class_names=["a", "b", "c"])
    one = box_metrics(
        [TrueBoxes(it.boxes_xyxy, it.labels * 0) for it in truth],
        [PredictedBoxes(it.boxes_xyxy, it.scores, it.labels * 0) for it in predicted],
        class_names=["defect"],
    )
    assert (ours.class_agnostic_map50, ours.class_agnostic_map50_95, ours.class_agnostic_ar100) == (
        one.map50,
        one.map50_95,
        one.ar100,
    )


@pytest.mark.parametrize(
    ("truth", "predicted", "map50", "map50_95", "ar100"),
    [
        # exact
        ([true((0, 0, 10, 10, 0))], [said((0, 0, 10, 10, 0, 0.9))], 1.0, 1.0, 1.0),
        # right box, wrong class: seen by the agnostic figures only (checked below)
        ([true((0, 0, 10, 10, 0))], [said((0, 0, 10, 10, 1, 0.9))], 0.0, 0.0, 0.0),
        # IoU 0.62: a hit at 0.50, 0.55 and 0.60, a miss at the seven others
        ([true((0, 0, 100, 100, 0))], [said((0, 0, 62, 100, 0, 0.9))], 1.0, 0.3, 0.3),
        # nothing said anywhere
        ([true((0, 0, 10, 10, 0))], [said()], 0.0, 0.0, 0.0),
        # a more confident false alarm on a good image halves precision
        (
            [true((0, 0, 10, 10, 0)), true()],
            [said((0, 0, 10, 10, 0, 0.5)), said((0, 0, 10, 10, 0, 0.9))],
            0.5,
            0.5,
            1.0,
        ),
        # raw confidences beyond 1 are only ranked
        (
            [true((0, 0, 10, 10, 0)), true()],
            [said((0, 0, 10, 10, 0, 90.0)), said((0, 0, 10, 10, 0, -5.0))],
            1.0,
            1.0,
            1.0,
        ),
        # a one-pixel region is a box of one by one
        ([true((5, 5, 6, 6, 0))], [said((5, 5, 6, 6, 0, 0.9))], 1.0, 1.0, 1.0),
    ],
)
def test_by_hand(truth, predicted, map50, map50_95, ar100, engine):
    ours = box_metrics(truth, predicted, class_names=["a", "b"], engine=engine)
    assert ours.map50 == pytest.approx(map50)
    assert ours.map50_95 == pytest.approx(map50_95)
    assert ours.ar100 == pytest.approx(ar100)
    assert ours.ap50_by_class["b"] == NONE


def test_wrong_class_counts_for_the_agnostic_figures():
    ours = box_metrics(
        [true((0, 0, 10, 10, 0))], [said((0, 0, 10, 10, 1, 0.9))], class_names=["a", "b"]
    )
    found = (ours.map50, ours.class_agnostic_map50, ours.class_agnostic_ar100)
    assert found == pytest.approx((0.0, 1.0, 1.0))


@pytest.mark.parametrize("seed", range(8))
def test_both_engines_give_the_same_figures_to_the_last_digit(seed):
    pytest.importorskip(boxes.ENGINE_PACKAGE)
    truth, predicted = random_case(seed, 3)
    areas = [1e4] * len(truth)  # so that boxes of every size are there
    slow, fast = (
        box_metrics(truth, predicted, class_names=["a", "b", "c"], image_areas=areas, engine=one)
        for one in ("pycocotools", "faster-coco-eval")
    )
    assert fast == slow


def test_without_the_fast_engine(monkeypatch):
    monkeypatch.setattr(boxes, "ENGINE_PACKAGE", "not_installed_anywhere")
    truth, predicted = random_case(0, 1)
    assert box_metrics(truth, predicted, class_names=["a"]).map50 > 0
    with pytest.raises(MissingExtraError, match=r"faster-coco-eval is needed.*\[coco\]"):
        box_metrics(truth, predicted, class_names=["a"], engine="faster-coco-eval")


@pytest.mark.parametrize("predicted", [said(), said((0, 0, 5, 5, 0, 0.9))])
def test_only_good_images_have_no_value(predicted):
    ours = box_metrics([true()], [predicted], class_names=["a"])
    assert ours.map50 == ours.map50_95 == ours.ar100 == ours.class_agnostic_map50 == NONE
    assert ours.ap50_by_class == {"a": NONE}


def test_it_prints_nothing(capsys):
    box_metrics([true((0, 0, 5, 5, 0))], [said((0, 0, 5, 5, 0, 0.9))], class_names=["a"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        # an image too few
        ([true()], []),
        # a label without a name
        ([true((0, 0, 5, 5, 1))], [said()]),
        ([true()], [said((0, 0, 5, 5, -1, 0.9))]),
        # a box that diverged
        ([true()], [said((0, 0, float("nan"), 5, 0, 0.9))]),
        ([true()], [said((0, 0, 5, 5, 0, float("nan")))]),
        # two boxes, one label
        ([TrueBoxes(np.zeros((2, 4)), np.zeros(1, dtype=int))], [said()]),
    ],
)
def test_refuses(truth, predicted):
    with pytest.raises(MetricError):
        box_metrics(truth, predicted, class_names=["a"])
