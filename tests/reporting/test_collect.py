"""Contents of a report: pooled folds, groups, and the runs that are left out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.reporting.fake_runs import make_run
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.errors import DataError, RunError
from toolkit.reporting.collect import collect_report, read_results


@pytest.fixture(scope="module")
def dataset(sample_dir: Path) -> Dataset:
    return load_dataset(sample_dir)


@pytest.fixture
def runs(tmp_path: Path, dataset: Dataset) -> Path:
    """Two methods on one fold."""
    make_run(tmp_path / "runs", dataset, entry="a", outputs=["map", "boxes"])
    make_run(tmp_path / "runs", dataset, entry="b", outputs=["mask"], seed=1)
    return tmp_path / "runs"


def test_rows_have_their_predictions(runs: Path) -> None:
    content = collect_report([runs])
    assert content.left_out == ()
    (group,) = content.groups
    assert sorted(m.name for m in group.methods) == ["a", "b"]
    for method in group.methods:
        assert len(method.labels) == group.board.test_images == len(method.flagged)
        assert set(method.labels) == set(group.methods[0].labels)
        threshold = method.runs[0].threshold
        assert method.flagged == tuple(score >= threshold for score in method.scores)
        assert method.row.values["auroc"] == 1.0


def test_folds_are_pooled_each_with_its_threshold(tmp_path: Path, dataset: Dataset) -> None:
    made = [make_run(tmp_path, dataset, fold=fold, seed=0) for fold in (0, 1, 2)]
    (group,) = collect_report([tmp_path]).groups
    (method,) = group.methods
    assert group.board.folds == (0, 1, 2)
    assert [one.threshold for one in method.runs] == [r.metrics()["thresholds"][0] for r in made]
    assert [one.run.path for one in method.runs] == [run.path for run in made]
    tested = [name for run in made for name in run.record["split"]["test"]]
    assert list(method.labels) == list(method.predictions) == tested
    assert [method.labels[name] for name in tested] == [dataset.by_id[n].label for n in tested]


def test_splits_are_separate(tmp_path: Path, dataset: Dataset) -> None:
    for plan_seed in (0, 1):
        make_run(tmp_path, dataset, plan_seed=plan_seed)
    groups = collect_report([tmp_path]).groups
    assert len({group.board.split_hash for group in groups}) == 2
    assert [len(group.methods) for group in groups] == [1, 1]


def test_rows_of_one_name_are_distinguished(tmp_path: Path, dataset: Dataset) -> None:
    for _ in range(2):
        make_run(tmp_path / "x", dataset, entry="a", metadata={"weights": "w"})
    record = json.loads((tmp_path / "x/grey/002/run.json").read_text())
    record["settings"]["lr"] = 1
    (tmp_path / "x/grey/002/run.json").write_text(json.dumps(record))
    (group,) = collect_report([tmp_path]).groups
    assert sorted(m.name for m in group.methods) == ["a, grey/001", "a, grey/002"]


def _lines(run: Path) -> tuple[Path, list[str]]:
    path = run / "predictions/test.jsonl"
    return path, path.read_text().splitlines()


def _no_predictions(run: Path) -> None:
    shutil.rmtree(run / "predictions")


def _missing_prediction(run: Path) -> None:
    path, lines = _lines(run)
    path.write_text("\n".join(lines[1:]) + "\n")


def _unknown_image(run: Path) -> None:
    path, lines = _lines(run)
    path.write_text("\n".join([*lines, lines[0].replace('"id": "', '"id": "other/')]) + "\n")


def _score(value: float) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path, lines = _lines(run)
        first = {**json.loads(lines[0]), "score": value}
        path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")

    return damage


def _changed(file: str, **keys: object) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        record = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps({**record, **keys}))

    return damage


def _not_utf8(run: Path) -> None:
    path, lines = _lines(run)
    path.write_bytes("\n".join(lines).encode() + b"\xff\n")


def _nan_in_report(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["report"] = {"loss": float("nan")}
    (run / "metrics.json").write_text(json.dumps(metrics))


def _bad_results(run: Path) -> None:
    (run / "results.csv").write_bytes(b"epoch,loss\n1,\xff\n")


def _missing_map(run: Path) -> None:
    next((run / "predictions/test").rglob("*.npy")).unlink()


def _map(content: np.ndarray) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        np.save(next((run / "predictions/test").rglob("*.npy")), content)

    return damage


def _bad_map(run: Path) -> None:
    next((run / "predictions/val").rglob("*.npy")).write_bytes(b"no array")


def _no_metrics(run: Path) -> None:
    (run / "metrics.json").unlink()


def _not_json(run: Path) -> None:
    (run / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_predictions, "no stored predictions"),
        (_missing_prediction, "no prediction for"),
        (_unknown_image, "unknown image other/"),
        (_score(float("nan")), "finite|nan"),
        (_score(float("inf")), "finite|inf"),
        (_changed("run.json", schema=0), "schema"),
        (_changed("metrics.json", schema=0), "schema"),
        (_changed("metrics.json", thresholds=["high"]), "threshold"),
        (_changed("run.json", split={"hash": "x"}), "damaged"),
        (_no_metrics, "not finished"),
        (_not_json, "not valid JSON"),
        (_not_utf8, "utf-8|UTF-8"),
        (_nan_in_report, "(?i)nan|not JSON compliant"),
        (_bad_results, "utf-8"),
        (_missing_map, "No such file|damaged"),
        (_bad_map, "damaged"),
        (_map(np.full((4, 4), np.nan)), "finite"),
        (_map(np.zeros(4)), "not an array of finite numbers|damaged"),
        (_changed("metrics.json", images={}), "damaged"),
        (_changed("metrics.json", classification={"classes": ["a"]}), "damaged"),
    ],
)
def test_a_damaged_run_is_left_out_and_named(
    runs: Path, damage: Callable[[Path], None], reason: str
) -> None:
    bad = runs / "grey/001"
    damage(bad)
    content = collect_report([runs])
    (line,) = content.left_out
    assert str(bad) in line
    assert "\n" not in line
    assert re.search(reason, line)
    (group,) = content.groups
    assert [m.name for m in group.methods] == ["b"]
    assert [row.entry for row in group.board.rows] == ["b"]
    assert group.board.differences == ()


def test_a_damaged_fold_leaves_its_entry_out(tmp_path: Path, dataset: Dataset) -> None:
    for entry in ("a", "b"):
        for fold in (0, 1, 2):
            make_run(tmp_path, dataset, entry=entry, outputs=["map"], fold=fold)
    _missing_map(tmp_path / "grey/001")
    content = collect_report([tmp_path])
    assert [str(tmp_path / "grey/001") in line for line in content.left_out] == [True]
    found = {(group.board.folds, m.name) for group in content.groups for m in group.methods}
    assert found == {((0, 1, 2), "b")}


def test_data_that_was_moved(tmp_path: Path, sample_dir: Path) -> None:
    before = shutil.copytree(sample_dir, tmp_path / "before")
    make_run(tmp_path / "runs", before)
    before.rename(tmp_path / "after")
    for data, folder in ((None, "before"), (tmp_path / "after", "after")):
        content = collect_report([tmp_path / "runs"], data=data)
        assert content.left_out == ()
        assert list(content.folders) == [str(tmp_path / folder)]
    stored = json.loads((tmp_path / "runs/grey/001/run.json").read_text())
    assert stored["data"]["root"].endswith("before")  # reading changes nothing
    with pytest.raises(DataError, match="no such folder"):
        collect_report([tmp_path / "runs"], data=tmp_path / "nowhere")


def test_places(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        collect_report([tmp_path / "nowhere"])
    with pytest.raises(RunError, match="no run"):
        collect_report([tmp_path])


def test_seeds_share_a_row_and_the_first_is_displayed(tmp_path: Path, dataset: Dataset) -> None:
    made = [make_run(tmp_path, dataset, seed=seed, outputs=["map"]) for seed in (3, 5)]
    (group,) = collect_report([tmp_path]).groups
    (method,) = group.methods
    assert method.row.seeds == (3, 5)
    assert [one.run.path for one in method.runs] == [made[0].path]
    assert len(method.labels) == group.board.test_images
    _missing_map(made[0].path)
    (group,) = collect_report([tmp_path]).groups
    assert [one.run.path for one in group.methods[0].runs] == [made[1].path]


def test_results_of_a_run(tmp_path: Path, dataset: Dataset) -> None:
    run = make_run(tmp_path, dataset, outputs=["map", "mask", "boxes", "classes"], epochs=2)
    results = read_results(run)
    assert list(results.labels) == run.record["split"]["test"]
    for name, label in results.labels.items():
        record = results.predictions[name]
        assert record["flagged"] == (record["score"] >= results.threshold)
        assert record["pred_class"][0] == label
        assert bool(record["mask"]) == bool(record["boxes"]) == (label != "good")
        assert record["heat"]
        assert results.sizes[name] == (128, 128)
    assert results.confusion is not None
    assert results.confusion[1].sum() == len(results.labels)
    assert [row["epoch"] for row in results.epochs] == ["1", "2"]
