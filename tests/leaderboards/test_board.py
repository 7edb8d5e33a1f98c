"""Which runs share a table, and what becomes of those that cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from tests.leaderboards.standin import grey  # noqa: F401
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.errors import ConfigError, RunError
from toolkit.leaderboards.benchmark_files import Display, benchmark_folder, write_display
from toolkit.leaderboards.board import leaderboard
from toolkit.leaderboards.collect import collect
from toolkit.leaderboards.columns import NOT_GIVEN
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training

pytestmark = pytest.mark.usefixtures("grey")
TASK = TrainingTask(method="grey", entry="grey", device="cpu", settings={"gives": ()})


@pytest.fixture
def make(sample_dir: Path, tmp_path: Path) -> Callable[..., Run]:
    def make(*, data: Path = sample_dir, fold: int = 0, split_seed: int = 0, **change: Any) -> Run:
        dataset = load_dataset(data)
        split = make_plan(dataset, folds=3, seed=split_seed).fold(dataset, fold)
        return run_training(replace(TASK, fold=fold, **change), split, runs=tmp_path / "runs")

    return make


def test_pooled_folds_equal_a_figure_made_by_hand(
    make: Callable[..., Run], sample_dir: Path
) -> None:
    runs = [make(fold=fold) for fold in range(3)]
    said = [p for run in runs for p in read_predictions(run.predictions, "test")]
    assert len({p.sample_id for p in said}) == len(said) == 24
    truth = [not p.sample_id.startswith("test/good/") for p in said]
    (group,) = leaderboard(runs).groups
    assert (group.test_images, group.test_defects, group.folds) == (24, sum(truth), (0, 1, 2))
    (row,) = group.rows
    assert row.values["auroc"] == pytest.approx(roc_auc_score(truth, [p.score for p in said]))
    assert row.values["fit_seconds"] == pytest.approx(sum(r.metadata["fit_seconds"] for r in runs))
    assert row.runs == tuple(r.path for r in runs)


@pytest.mark.parametrize("folds", [(0,), (0, 1)])
def test_validation_parts_can_be_compared_instead(
    make: Callable[..., Run], folds: tuple[int, ...]
) -> None:
    runs = [make(fold=fold) for fold in folds]
    said = [p for run in runs for p in read_predictions(run.predictions, "val")]
    truth = [not p.sample_id.startswith("test/good/") for p in said]
    (group,) = leaderboard(runs, part="val").groups
    assert (group.test_images, group.test_defects) == (len(said), sum(truth))
    (row,) = group.rows
    assert row.values["auroc"] == pytest.approx(roc_auc_score(truth, [p.score for p in said]))
    for form in ("table", "markdown"):
        assert "protocol supervised, validation part" in leaderboard(runs, part="val").render(form)
        assert "protocol supervised, fold" in leaderboard(runs).render(form)


def test_a_part_that_is_none(make: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match="--part train: unknown"):
        leaderboard([make()], part="train")


def test_what_a_method_does_not_give_is_not_zero(make: Callable[..., Run]) -> None:
    ((row,),) = [group.rows for group in leaderboard([make()]).groups]
    for name in ("map50", "mask_iou", "pixel_auroc", "aupro"):
        assert row.values[name] == NOT_GIVEN


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"prompts_source": "not CLIP: closed vocabulary"}, "not CLIP: closed vocabulary"),
        ({}, ""),  # a method without prompts, or a run of an earlier version
    ],
)
def test_a_row_says_where_its_prompts_come_from(
    make: Callable[..., Run], metadata: dict[str, str], said: str
) -> None:
    run = make()
    run.metadata.update(metadata)
    ((row,),) = [group.rows for group in leaderboard([run]).groups]
    assert row.prompts_source == said


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"map50_change": -0.5, "map50_before": 0.75}, True),
        ({"value": None, "reason": "no images of old classes were given"}, False),
        (None, False),  # a method that knows no words
    ],
)
def test_a_row_says_what_was_forgotten_where_it_was_measured(
    make: Callable[..., Run], report: dict[str, Any] | None, said: bool
) -> None:
    run = make()
    run.finish({**run.metrics(), "report": {} if report is None else {"retention": report}})
    ((row,),) = [group.rows for group in leaderboard([run]).groups]
    assert row.retention == (report if said else {})


def test_another_split_is_another_table(make: Callable[..., Run]) -> None:
    groups = leaderboard([make(), make(split_seed=1, entry="other")]).groups
    assert [len(g.rows) for g in groups] == [1, 1]
    assert groups[0].split_hash != groups[1].split_hash


def test_other_folds_are_another_table(make: Callable[..., Run]) -> None:
    """One method lacks a fold: its figures are of other images."""
    runs = [make(fold=0, entry="a"), make(fold=1, entry="a"), make(fold=0, entry="b")]
    groups = leaderboard(runs).groups
    assert {(g.folds, g.rows[0].entry, len(g.rows)) for g in groups} == {
        ((0, 1), "a", 1), ((0,), "b", 1),
    }  # fmt: skip


@pytest.mark.parametrize("fold", [0, 1])  # another fold must not be pooled with it either
def test_other_masks_are_another_table(
    make: Callable[..., Run], sample_dir: Path, tmp_path: Path, fold: int
) -> None:
    other = shutil.copytree(sample_dir, tmp_path / "sample")
    masks = sorted((other / "ground_truth").rglob("*.png"))
    shutil.copyfile(masks[0], masks[1])
    runs = [make(), make(data=other, fold=fold)]
    assert runs[0].record["split"]["hash"] == runs[1].record["split"]["hash"]
    groups = leaderboard(runs).groups
    assert [len(g.rows[0].runs) for g in groups] == [1, 1]
    assert groups[0].fingerprint != groups[1].fingerprint


def test_seeds_are_rows_of_one_table_and_not_pooled(make: Callable[..., Run]) -> None:
    runs = [make(seed=seed, fold=fold) for seed in (0, 7) for fold in (0, 1)]
    (group,) = leaderboard(runs).groups
    assert [(row.seeds, len(row.runs)) for row in group.rows] == [((0, 7), 4)]
    (group,) = leaderboard(runs, seeds="each").groups
    assert sorted((row.seed, len(row.runs)) for row in group.rows) == [(0, 2), (7, 2)]


@pytest.mark.parametrize(("folds", "shown"), [((0,), True), ((0, 1), False)])
def test_figures_of_one_fold_are_not_shown_as_those_of_all(
    make: Callable[..., Run], folds: tuple[int, ...], shown: bool
) -> None:
    runs = [make(fold=fold) for fold in folds]
    for run in runs:
        run.finish({**run.metrics(), "report": {"prompted": {"box": {"zero_shot": 0.5}}}})
    (group,) = leaderboard(runs).groups
    assert bool(group.rows[0].prompted) is shown


def test_best_first_and_without_a_figure_last(make: Callable[..., Run]) -> None:
    runs = [make(entry=name) for name in ("a", "b", "c")]
    for run, auroc in zip(runs, (0.5, None, 0.9), strict=True):
        metrics = run.metrics()
        metrics["image"]["auroc"] = auroc or {"value": None, "reason": "no defect images"}
        run.finish(metrics)
    (group,) = leaderboard(runs).groups
    assert [row.entry for row in group.rows] == ["c", "a", "b"]


def test_run_twice_is_left_out_and_named(make: Callable[..., Run]) -> None:
    runs = [make(), make(), make(entry="other")]
    board = leaderboard(runs)
    assert [row.entry for g in board.groups for row in g.rows] == ["other"]
    assert "run twice" in board.left_out[0]
    assert str(runs[1].path) in board.left_out[0]


@pytest.mark.parametrize(
    "content", ["", "{}", "null", '{"image": {}}', '{"image": {"n_defect": 1, "auroc": "good"}}']
)
def test_damaged_metrics_leave_the_others(make: Callable[..., Run], content: str) -> None:
    bad, good = make(entry="a"), make(entry="b")
    (bad.path / "metrics.json").write_text(content)
    board = leaderboard([bad, good])
    assert [row.entry for g in board.groups for row in g.rows] == ["b"]
    assert len(board.left_out) == 1
    assert "\n" not in board.left_out[0]


def test_metadata_that_is_missing(make: Callable[..., Run]) -> None:
    run = make()
    stored = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**stored, "metadata": {}}))
    board = leaderboard([Run.open(run.path)])
    assert board.groups == ()
    assert "make the run again" in board.left_out[0]


def test_pooling_without_the_data_is_left_out(
    make: Callable[..., Run], sample_dir: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(sample_dir, tmp_path / "gone")
    runs = [make(data=data, fold=fold) for fold in (0, 1)]
    shutil.rmtree(data)
    assert "no such folder" in leaderboard(runs).left_out[0]
    assert leaderboard(runs[:1]).left_out == ()  # one fold needs nothing but its figures


def test_collecting(make: Callable[..., Run], tmp_path: Path) -> None:
    finished, stopped = make(entry="a"), make(entry="b")
    (stopped.path / "metrics.json").unlink()
    assert [run.path for run in collect([tmp_path / "runs"])] == [finished.path, stopped.path]
    assert [run.path for run in collect([finished.path])] == [finished.path]
    assert len(collect([finished.path, finished.path.parent])) == 2  # named twice, there once
    board = leaderboard(collect([tmp_path / "runs"]))
    assert [row.entry for g in board.groups for row in g.rows] == ["a"]
    assert len(board.left_out) == 1
    assert f"{stopped.path}: not finished" in board.left_out[0]
    with pytest.raises(RunError, match="no run there"):
        collect([finished.path / "weights"])
    with pytest.raises(RunError, match="typo: no such folder"):
        collect([finished.path, tmp_path / "typo"])


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    stored = json.loads(file.read_text())
    change(stored)
    file.write_text(json.dumps(stored))


def change_line(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the first stored prediction of the test part."""
    file = run.path / "predictions/test.jsonl"
    first, *rest = file.read_text().splitlines()
    record = json.loads(first)
    change(record)
    file.write_text("\n".join([json.dumps(record), *rest]) + "\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        # no predictions at all
        (lambda r: shutil.rmtree(r.path / "predictions"), "no stored predictions"),
        # one image has none
        (
            lambda r: (r.path / "predictions/test.jsonl").write_text(
                "".join((r.path / "predictions/test.jsonl").read_text().splitlines(True)[1:])
            ),
            "no prediction for test/",
        ),
        # one is for an image that the split does not name
        (lambda r: change_line(r, lambda p: p.update(id="test/x.png")), "unknown image test/x.png"),
        # it stands for an image of another part: a run of another split
        (
            lambda r: change_json(
                r.path / "run.json", lambda c: c["split"].update(test=c["split"]["val"])
            ),
            "unknown image test/",
        ),
        # scores that cannot be ranked
        (lambda r: change_line(r, lambda p: p.update(score=float("nan"))), "is nan"),
        (lambda r: change_line(r, lambda p: p.update(score=float("inf"))), "is inf"),
        (lambda r: change_line(r, lambda p: p.update(score="high")), "'high' and no number"),
        (
            lambda r: change_line(r, lambda p: p.update(class_probabilities={"a": float("nan")})),
            "is nan",
        ),
        (
            lambda r: change_line(
                r,
                lambda p: p.update(
                    boxes={"xyxy": [[0, 0, float("nan"), 1]], "scores": [1], "labels": ["a"]}
                ),
            ),
            "a box of",
        ),
        # other schema versions
        (lambda r: change_line(r, lambda p: p.update(schema=9)), "schema 9"),
        (lambda r: change_json(r.path / "metrics.json", lambda c: c.update(schema=9)), "chema"),
        (lambda r: change_json(r.path / "run.json", lambda c: c.update(schema=9)), "chema"),
        # damaged files
        (
            lambda r: (r.path / "predictions/test.jsonl").write_bytes(
                b'{"schema": 1, "id": "\xff"}'
            ),
            "line 1 is damaged",
        ),
        (lambda r: (r.path / "metrics.json").write_bytes(b'{"schema": "\xff"}'), "not valid JSON"),
        (
            lambda r: change_json(r.path / "metrics.json", lambda c: c["images"].update(ids=[])),
            "lists of images differ in length",
        ),
        (
            lambda r: change_json(r.path / "metrics.json", lambda c: c.update(images=[1])),
            "(images)",
        ),
        (lambda r: (r.path / "run.json").write_text("{"), "not valid JSON"),
        (lambda r: change_json(r.path / "run.json", lambda c: c.update(split=[])), "damaged"),
        (lambda r: change_json(r.path / "run.json", lambda c: c["data"].clear()), "damaged"),
        (lambda r: (r.path / "metrics.json").write_text('{"schema": 1, "ima'), "not valid JSON"),
        (
            lambda r: change_json(
                r.path / "metrics.json", lambda c: c["image"].update(auroc=float("nan"))
            ),
            "a metric is nan",
        ),
    ],
)
def test_what_is_wrong_with_a_run_is_one_line_and_the_rest_is_shown(
    make: Callable[..., Run], tmp_path: Path, damage: Callable[[Run], object], said: str
) -> None:
    bad, good = make(entry="bad"), make(entry="good")
    damage(bad)
    board = leaderboard(collect([tmp_path / "runs"]))
    assert [row.entry for g in board.groups for row in g.rows] == ["good"]
    (line,) = board.left_out
    assert said in line
    assert str(bad.path) in line
    assert "\n" not in line
    assert str(good.path) not in line


RECALLS = "classification.recall_by_class"


def test_a_path_to_several_figures_is_a_column_for_each(make: Callable[..., Run]) -> None:
    run = make(settings={"gives": ("classes",)})
    (group,) = leaderboard([run], columns=["auroc", RECALLS]).groups
    classes = sorted(run.metrics()["classification"]["recall_by_class"])
    assert group.columns == ("auroc", *(f"{RECALLS}.{name}" for name in classes))
    below = f"{', '.join(classes)}: below {RECALLS} in metrics.json"
    assert below in leaderboard([run], columns=[RECALLS]).to_markdown()
    (row,) = group.rows
    for name in classes:
        stored = run.metrics()["classification"]["recall_by_class"][name]
        assert row.values[f"{RECALLS}.{name}"] == stored


def test_the_first_column_that_the_benchmark_asked_for_is_that_of_the_order(
    make: Callable[..., Run],
) -> None:
    runs = [make(settings={"gives": ("classes",)}, name=name, entry=name) for name in "ab"]
    display = Display(("labels", "class_accuracy", "auroc"))
    write_display(benchmark_folder(runs[0]), dict.fromkeys("ab", display))
    (group,) = leaderboard(runs).groups
    assert group.sort == "class_accuracy"  # not the words before it
    assert [row.rank for row in group.rows] == [1, 1]
    assert leaderboard(runs, sort="auroc").groups[0].sort == "auroc"
    assert leaderboard([make(entry="c")]).groups[0].sort == "auroc"


def test_every_interval_where_it_is_asked_for(make: Callable[..., Run]) -> None:
    run = make(settings={"gives": ("classes",)})
    columns = ["class_accuracy", "class_balanced_accuracy", "auroc"]
    one, every = (
        leaderboard([run], columns=columns, all_intervals=wanted).to_markdown()
        for wanted in (False, True)
    )
    assert one.count(" [") == 1
    assert every.count(" [") == 3
    stored = run.metrics()["intervals"]["classification.balanced_accuracy"]
    shown = f"[{stored['low']:.2f}, {stored['high']:.2f}]"
    assert shown in every


def test_ranks_are_numbers_of_the_order(make: Callable[..., Run]) -> None:
    """Numbered by value; before, a row that nothing is compared with was the first."""
    runs = [make(entry=name) for name in "abc"]
    for run, auroc in zip(runs, (0.5, 0.9, 0.7), strict=True):
        metrics = run.metrics()
        metrics["image"]["auroc"] = auroc
        run.finish(metrics)
    (group,) = leaderboard(runs).groups
    assert [(row.entry, row.rank) for row in group.rows] == [("b", 1), ("c", 2), ("a", 3)]


def test_places_runs_and_one_run(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make()
    for given in (run, run.path, str(run.path), [run], [tmp_path / "runs"], tmp_path / "runs"):
        board = leaderboard(given)  # type: ignore[arg-type]
        assert [row.runs for row in board.rows] == [(run.path,)]
    assert str(board) == board.render("table")
    assert board.to_dict()["groups"][0]["rows"][0]["entry"] == "grey"
    assert board.to_markdown().startswith("### sample")
