"""From stored predictions to figures: equal to what is computed by hand, and never flattering."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.runs.guessed import FOLDS, full, guess, make_run, plain
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.types import Dataset, Sample
from toolkit.errors import RunError
from toolkit.metrics.threshold import f1_threshold
from toolkit.prediction import Prediction
from toolkit.runs.evaluate import choose_threshold, evaluate
from toolkit.runs.run import Run


def test_twice_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path, dataset, 0, full)
    run.finish(evaluate([run], dataset))
    first = (run.path / "metrics.json").read_bytes()
    run.finish(evaluate([Run.open(run.path)], load_dataset(dataset.root)))
    assert (run.path / "metrics.json").read_bytes() == first


def test_pooled_folds_are_every_test_image_once(dataset: Dataset, tmp_path: Path) -> None:
    runs = [make_run(tmp_path, dataset, fold) for fold in range(FOLDS)]
    tested = [name for run in runs for name in run.record["split"]["test"]]
    assert sorted(tested) == sorted(s.id for s in dataset if s.part == "test")
    said = evaluate(runs, dataset)["image"]
    samples = [s for s in dataset if s.part == "test"]
    truth, scores = [s.is_defect for s in samples], [guess(s) for s in samples]
    assert 0.5 < said["auroc"] < 1
    assert said["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert said["average_precision"] == pytest.approx(average_precision_score(truth, scores))
    assert said["n_good"] + said["n_defect"] == len(samples)


def test_validation_parts_are_judged_in_the_same_way(dataset: Dataset, tmp_path: Path) -> None:
    runs = [make_run(tmp_path, dataset, fold) for fold in range(FOLDS)]
    said = evaluate(runs, dataset, part="val")
    plan = make_plan(dataset, folds=FOLDS)
    samples = [s for fold in range(FOLDS) for s in plan.fold(dataset, fold).val]
    assert said["images"]["ids"] == [s.id for s in samples]
    truth = [s.is_defect for s in samples]
    assert said["image"]["auroc"] == pytest.approx(
        roc_auc_score(truth, [guess(s) for s in samples])
    )


def test_each_fold_is_judged_at_the_choose_threshold_its_own_validation_part(
    dataset: Dataset, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path, dataset, fold) for fold in range(FOLDS)]
    said = evaluate(runs, dataset)
    right = 0
    for run, threshold in zip(runs, said["thresholds"], strict=True):
        split = run.record["split"]
        val = [dataset.by_id[name] for name in split["val"]]
        wanted = f1_threshold([guess(s) for s in val], [s.is_defect for s in val])
        assert threshold == wanted == choose_threshold(run, dataset)
        test = [dataset.by_id[name] for name in split["test"]]
        right += sum((guess(s) >= threshold) == s.is_defect for s in test)
    n_test = sum(s.part == "test" for s in dataset)
    assert len(set(said["thresholds"])) > 1, "equal thresholds would prove nothing"
    assert said["image"]["decisions"]["accuracy"] == pytest.approx(right / n_test)


def test_wrong_decisions_are_counted_with_exact_intervals(dataset: Dataset, tmp_path: Path) -> None:
    runs = [make_run(tmp_path, dataset, fold) for fold in range(FOLDS)]
    metrics = evaluate(runs, dataset)
    decisions, found = metrics["image"]["decisions"], metrics["at_threshold"]
    assert (found["escapes"], found["overkill"]) == (decisions["fn"], decisions["fp"])
    for name, count, total in (
        ("escape_rate", decisions["fn"], metrics["image"]["n_defect"]),
        ("overkill_rate", decisions["fp"], metrics["image"]["n_good"]),
    ):
        wanted = binomtest(count, total).proportion_ci(0.95, method="exact")
        assert found[name] == count / total
        interval = metrics["intervals"][name]
        assert (interval["low"], interval["high"]) == pytest.approx((wanted.low, wanted.high))
        counted = metrics["intervals"]["escapes" if name == "escape_rate" else "overkill"]
        assert counted["high"] == pytest.approx(wanted.high * total)
    sizes = [len(run.record["split"]["val"]) for run in runs]
    assert found["val_images"] == found["val_good"] + found["val_defect"] == min(sizes)


def test_a_threshold_from_good_images_says_what_it_promises(
    dataset: Dataset, tmp_path: Path
) -> None:
    run = make_run(tmp_path, dataset, 0)
    said = evaluate(run, dataset)["at_threshold"]["promised_overkill_rate"]
    assert said["reason"] == "the threshold was chosen with defects, for the best F1"
    val = run.record["split"]["val"]
    run.record["split"]["val"] = good = [n for n in val if not dataset.by_id[n].is_defect]
    lines = (run.predictions / "val.jsonl").read_text().splitlines(keepends=True)
    (run.predictions / "val.jsonl").write_text(
        "".join(line for line in lines if json.loads(line)["id"] in good)
    )
    said = evaluate(run, dataset)["at_threshold"]
    # No good image is flagged where there are fewer than 20.
    assert said["val_good"] == len(good) < 20
    assert said["promised_overkill_rate"] == pytest.approx(1 - 0.05 ** (1 / len(good)))


def test_no_validation_images_no_decisions(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path, dataset, 0)
    run.record["split"]["val"] = []
    said = evaluate([run], dataset)
    assert said["thresholds"] == [None]
    assert said["image"]["decisions"]["value"] is None
    assert said["at_threshold"]["escapes"]["value"] is None
    assert said["at_threshold"]["val_images"] == 0
    assert isinstance(said["image"]["auroc"], float)


def test_what_is_right_scores_one(dataset: Dataset, tmp_path: Path) -> None:
    said = evaluate([make_run(tmp_path, dataset, 0, full)], dataset)
    assert said["boxes"]["map50"] == pytest.approx(1)
    assert said["masks"]["iou"] == pytest.approx(1)
    assert said["pixel"]["auroc"] == pytest.approx(1)
    assert said["classification"]["accuracy"] == pytest.approx(1)
    assert said["classification"]["classes"] == ["good", *dataset.classes]


def test_what_is_not_said_is_not_judged(dataset: Dataset, tmp_path: Path) -> None:
    said = evaluate([make_run(tmp_path, dataset, 0)], dataset)
    assert not {"boxes", "masks", "pixel", "classification"} & set(said)


@pytest.mark.parametrize("right", [True, False])  # also where it calls every image good
def test_good_against_defect_is_a_classification_too(
    dataset: Dataset, tmp_path: Path, right: bool
) -> None:
    def say(samples: Sequence[Sample]) -> Iterator[Prediction]:
        for one, sample in zip(plain(samples), samples, strict=True):
            share = 0.8 if sample.is_defect and right else 0.2
            yield replace(one, class_probabilities={"defect": share, "good": 1 - share})

    said = evaluate([make_run(tmp_path, dataset, 0, say)], dataset)
    assert said["classification"]["classes"] == ["good", "defect"]
    share_good = said["image"]["n_good"] / (said["image"]["n_good"] + said["image"]["n_defect"])
    assert said["classification"]["accuracy"] == pytest.approx(1 if right else share_good)


def test_boxes_of_unknown_classes_count_for_nothing(dataset: Dataset, tmp_path: Path) -> None:
    def say(samples: Sequence[Sample]) -> Iterator[Prediction]:
        for one in full(samples):
            assert one.boxes is not None
            yield replace(one, boxes=replace(one.boxes, labels=("dent",) * len(one.boxes.labels)))

    assert evaluate([make_run(tmp_path, dataset, 0, say)], dataset)["boxes"]["map50"] == 0


@pytest.mark.parametrize("what", ["mask", "anomaly_map"])
def test_a_method_may_not_choose_where_it_is_judged(
    dataset: Dataset, tmp_path: Path, what: str
) -> None:
    """A mask for the easy images only would give a better mean than a mask for all."""

    def say(samples: Sequence[Sample]) -> Iterator[Prediction]:
        for number, one in enumerate(full(samples)):
            yield one if number < 2 else replace(one, **{what: None})

    run = make_run(tmp_path, dataset, 0, say)
    with pytest.raises(RunError, match="for some images only"):
        evaluate([run], dataset)


def test_maps_of_any_resolution(dataset: Dataset, tmp_path: Path) -> None:
    def say(samples: Sequence[Sample]) -> Iterator[Prediction]:
        for one in full(samples):
            assert one.anomaly_map is not None
            yield replace(one, anomaly_map=one.anomaly_map[::4, ::4])

    coarse = evaluate([make_run(tmp_path, dataset, 0, say)], dataset)["pixel"]["auroc"]
    assert 0.8 < coarse < 1


def test_loading_the_model_is_no_ones_speed(dataset: Dataset, tmp_path: Path) -> None:
    def say(samples: Sequence[Sample]) -> Iterator[Prediction]:
        for number, one in enumerate(plain(samples)):
            yield replace(one, seconds=9.0 if number == 0 else 0.01)

    runs = [make_run(tmp_path, dataset, fold, say) for fold in range(FOLDS)]
    for pooled in (runs[:1], runs):
        speed = evaluate(pooled, dataset)["speed"]
        assert (speed["ms_per_image_median"], speed["ms_per_image_p95"]) == (10.0, 10.0)
        assert speed["images_per_second"] == 100.0


def test_every_level_is_told_by_type_and_by_size(dataset: Dataset, tmp_path: Path) -> None:
    said = evaluate([make_run(tmp_path, dataset, 0, full)], dataset)
    types = set(dataset.classes)
    assert set(said["image"]["auroc_by_type"]) == set(said["image"]["recall_by_type"]) == types
    assert set(said["boxes"]["ap50_by_class"]) == types
    assert set(said["masks"]["by_type"]) == set(said["pixel"]["by_type"]) == types
    for level in ("masks", "pixel"):
        assert set(said[level]["by_size"]) == {"small", "medium", "large"}
    assert set(said["boxes"]["class_agnostic_by_size"]) == {"small", "medium", "large"}
    by_size = said["pixel"]["by_size"].values()
    assert sum(one["n_regions"] for one in by_size) == said["pixel"]["n_regions"]
    assert sum(one["n_pairs"] for one in said["masks"]["by_size"].values()) == len(
        [t for t in said["images"]["types"] if t != "good"]
    )
    # What is lacking says why.
    empty = [one for one in by_size if one["n_regions"] == 0]
    for one in empty:
        assert one["auroc"] == {"reason": "no regions of this kind", "value": None}
    known = [one["auroc"] for one in by_size if one["n_regions"]]
    assert known == pytest.approx([1.0] * len(known))


def test_lists_that_runs_are_compared_by(dataset: Dataset, tmp_path: Path) -> None:
    run = make_run(tmp_path, dataset, 0, full)
    said = evaluate([run], dataset)
    images = said["images"]
    assert images["ids"] == run.record["split"]["test"]
    assert images["scores"] == [guess(dataset.by_id[name]) for name in images["ids"]]
    for name in ("mask_iou", "dice", "boundary_iou"):
        good = [v is None for v in images[name]]
        assert good == [t == "good" for t in images["types"]]
    assert np.mean([v for v in images["mask_iou"] if v is not None]) == said["masks"]["iou"]
    regions = said["regions"]
    assert len(set(regions["ids"])) == said["pixel"]["n_regions"]
    assert np.mean(regions["aupro_0.3"]) == pytest.approx(said["pixel"]["aupro"]["0.3"], abs=1e-12)
    assert {"auroc", "mask_iou", "aupro_0.3", "aupro_0.05"} <= set(said["intervals"])


def test_a_path_is_enough(dataset: Dataset, tmp_path: Path) -> None:
    runs = [make_run(tmp_path, dataset, fold) for fold in (0, 1)]
    assert evaluate(str(runs[0].path)) == evaluate(runs[0], dataset) == evaluate([runs[0].path])
    assert evaluate([run.path for run in runs]) == evaluate(runs, dataset)
    assert not runs[0].finished  # nothing is written
    with pytest.raises(RunError, match="no run to evaluate"):
        evaluate([])


def test_reports_of_the_method_are_averaged_over_the_folds(
    dataset: Dataset, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path, dataset, fold) for fold in (0, 1)]
    reports = (
        {"a": 1, "b": {"c": 1.0, "x": {"value": None, "reason": "none"}}, "only": 1, "words": "u"},
        {"a": 2, "b": {"c": 2.0, "x": 1.0}, "words": "v"},
    )
    for run, report in zip(runs, reports, strict=True):
        (run.path / "report.json").write_text(json.dumps(report))
    assert evaluate(runs[0], dataset)["report"] == reports[0]
    assert evaluate(runs, dataset)["report"] == {
        "a": 1.5,
        "b": {"c": 1.5, "x": {"value": None, "reason": "none"}},
    }
