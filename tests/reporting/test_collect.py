"""Collecting: what is shown, what is left out, and that it is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.reporting.made import make_run
from toolkit.data.layouts import read_dataset
from toolkit.data.types import Dataset
from toolkit.errors import DataError, RunError
from toolkit.reporting.collect import collect_report


@pytest.fixture(scope="module")
def dataset(sample_dir: Path) -> Dataset:
    return read_dataset(sample_dir)


@pytest.fixture
def runs(tmp_path: Path, dataset: Dataset) -> Path:
    """Two methods on one fold."""
    make_run(tmp_path / "runs", dataset, entry="a", gives=["map", "boxes"])
    make_run(tmp_path / "runs", dataset, entry="b", gives=["mask"], seed=1)
    return tmp_path / "runs"


def test_rows_stand_beside_what_was_predicted(runs: Path) -> None:
    collected = collect_report([runs])
    assert collected.left_out == ()
    (group,) = collected.groups
    assert sorted(m.name for m in group.methods) == ["a", "b"]
    for shown in group.methods:
        assert len(shown.samples) == group.metadata.test_images == len(shown.flagged)
        assert {s.id for s in shown.samples} == {s.id for s in group.samples}
        assert shown.flagged == tuple(score >= shown.thresholds[0] for score in shown.scores)
        assert shown.row.values["auroc"] == 1.0


def test_folds_are_pooled_each_with_its_threshold(tmp_path: Path, dataset: Dataset) -> None:
    made = [make_run(tmp_path, dataset, fold=fold, seed=0) for fold in (0, 1, 2)]
    (group,) = collect_report([tmp_path]).groups
    (shown,) = group.methods
    assert group.metadata.folds == (0, 1, 2)
    assert shown.thresholds == tuple(run.metrics()["thresholds"][0] for run in made)
    tested = [name for run in made for name in run.record["split"]["test"]]
    assert [s.id for s in shown.samples] == tested
    assert [shown.parts[i].run.path for i in shown.folds] == [
        run.path for run in made for _ in run.record["split"]["test"]
    ]


def test_splits_are_kept_apart(tmp_path: Path, dataset: Dataset) -> None:
    for plan_seed in (0, 1):
        make_run(tmp_path, dataset, plan_seed=plan_seed)
    groups = collect_report([tmp_path]).groups
    assert len({group.metadata.split_hash for group in groups}) == 2
    assert [len(group.methods) for group in groups] == [1, 1]


def test_rows_of_one_name_are_told_apart(tmp_path: Path, dataset: Dataset) -> None:
    for _ in range(2):
        make_run(tmp_path / "x", dataset, entry="a", facts={"weights": "w"})
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


def _no_metrics(run: Path) -> None:
    (run / "metrics.json").unlink()


def _not_json(run: Path) -> None:
    (run / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "told"),
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
    ],
)
def test_a_run_that_cannot_be_shown_is_named(
    runs: Path, damage: Callable[[Path], None], told: str
) -> None:
    bad = runs / "grey/001"
    damage(bad)
    collected = collect_report([runs])
    (line,) = collected.left_out
    assert str(bad) in line
    assert "\n" not in line
    assert re.search(told, line)
    (group,) = collected.groups
    assert [m.name for m in group.methods] == ["b"]
    assert [row.entry for row in group.metadata.rows] == ["b"]


def test_data_that_was_moved(tmp_path: Path, sample_dir: Path) -> None:
    moved = shutil.copytree(sample_dir, tmp_path / "before")
    make_run(tmp_path / "runs", moved)
    moved.rename(tmp_path / "after")
    (line,) = collect_report([tmp_path / "runs"]).left_out
    assert "before" in line
    (group,) = collect_report([tmp_path / "runs"], data=tmp_path / "after").groups
    assert group.samples[0].image.is_file()
    stored = json.loads((tmp_path / "runs/grey/001/run.json").read_text())
    assert stored["data"]["root"].endswith("before")  # reading changes nothing
    with pytest.raises(DataError, match="no such folder"):
        collect_report([tmp_path / "runs"], data=tmp_path / "nowhere")


def test_other_data_is_no_data(runs: Path, sample_dir: Path, tmp_path: Path) -> None:
    other = shutil.copytree(sample_dir, tmp_path / "other")
    masks = sorted((other / "ground_truth").rglob("*.png"))
    shutil.copyfile(masks[0], masks[-1])
    record = json.loads((runs / "grey/001/run.json").read_text())
    record["data"]["root"] = str(other)
    (runs / "grey/001/run.json").write_text(json.dumps(record))
    collected = collect_report([runs])
    assert "not the data of this run" in collected.left_out[0]
    assert collected.roots[str(other)] == record["data"]["name"]


def test_places(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        collect_report([tmp_path / "nowhere"])
    with pytest.raises(RunError, match="no run"):
        collect_report([tmp_path])


def test_seeds_share_a_row_and_the_first_is_shown(tmp_path: Path, dataset: Dataset) -> None:
    made = [make_run(tmp_path, dataset, seed=seed) for seed in (3, 5)]
    (group,) = collect_report([tmp_path]).groups
    (shown,) = group.methods
    assert shown.row.seeds == (3, 5)
    assert [part.run.path for part in shown.parts] == [made[0].path]
    assert len(shown.samples) == group.metadata.test_images


def test_ranks_are_those_of_what_is_left(tmp_path: Path, dataset: Dataset) -> None:
    tested = make_run(tmp_path / "probe", dataset).record["split"]["test"]
    make_run(tmp_path / "runs", dataset, entry="best")
    make_run(tmp_path / "runs", dataset, entry="worst", wrong=tested)
    (group,) = collect_report([tmp_path / "runs"]).groups
    assert [(m.name, m.row.rank) for m in group.methods] == [("best", 1), ("worst", 2)]
    (rest,) = group.without({"best": "broken"}).methods
    assert (rest.name, rest.row.rank) == ("worst", 1)
    assert group.without({"best": "broken"}).metadata.differences == ()


def test_a_group_without_a_method(runs: Path) -> None:
    (group,) = collect_report([runs]).groups
    rest = group.without({"a": "broken"})
    assert [m.name for m in rest.methods] == ["b"]
    assert [row.entry for row in rest.metadata.rows] == ["b"]
    assert np.array_equal(rest.methods[0].is_defect, [s.is_defect for s in rest.methods[0].samples])
