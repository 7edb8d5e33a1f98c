"""Two runs image by image: equal to what is counted by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from tests.runs.guessed import FOLDS, full, guess, make_run
from toolkit.cli.main import app
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset, Sample
from toolkit.errors import RunError
from toolkit.leaderboards.compare import compare_runs, comparison_text, write_plots
from toolkit.prediction import Prediction
from toolkit.runs.evaluate import choose_threshold, evaluate
from toolkit.runs.run import Run


@pytest.fixture
def dataset(sample_dir: Path) -> Dataset:
    return load_dataset(sample_dir)


def scored_by(score: Callable[[Sample], float]) -> object:
    def say(samples: Sequence[Sample]) -> Iterator[Prediction]:
        for one, sample in zip(full(samples), samples, strict=True):
            yield replace(one, score=score(sample))

    return say


def upside_down(sample: Sample) -> float:
    """Right where `guess` is often wrong."""
    return -10 * int(sample.image.stem) + (25.0 if sample.is_defect else 0.0)


@pytest.fixture
def pair(dataset: Dataset, tmp_path: Path) -> tuple[Run, Run]:
    one = make_run(tmp_path / "a", dataset, 0, scored_by(guess))
    other = make_run(tmp_path / "b", dataset, 0, scored_by(upside_down))
    for run, name in ((one, "one"), (other, "two")):
        run.update_metadata(entry=name, labels={"kind": "none", "train": 0})
        run.finish(evaluate([run], dataset))
    return one, other


def test_who_was_right_is_counted_at_each_runs_own_threshold(
    pair: tuple[Run, Run], dataset: Dataset
) -> None:
    said = compare_runs(pair, dataset)
    samples = [dataset.by_id[name] for name in pair[0].record["split"]["test"]]
    right = []
    for run, score in zip(pair, (guess, upside_down), strict=True):
        threshold = choose_threshold(run, dataset)
        assert threshold is not None
        right.append({s.id: (score(s) >= threshold) == s.is_defect for s in samples})
    for place in (0, 1):
        alone = {s.id for s in samples if right[place][s.id] and not right[1 - place][s.id]}
        assert {v.sample.id for v in said.disagreements if v.right == place} == alone
    assert said.disagreements, "equal decisions would prove nothing"
    assert said.both_right == sum(right[0][s.id] and right[1][s.id] for s in samples)
    assert (
        said.both_right + said.both_wrong + len(said.disagreements) == said.n_images == len(samples)
    )


def test_figures_are_those_of_the_runs(pair: tuple[Run, Run], dataset: Dataset) -> None:
    said = compare_runs(pair, dataset)
    for i, run in enumerate(pair):
        stored = run.metrics()["image"]
        assert said.metrics["auroc"].values[i] == stored["auroc"]
        assert said.metrics["accuracy"].values[i] == stored["decisions"]["accuracy"]
    gap = said.metrics["auroc"]
    assert gap.difference == pytest.approx(gap.values[0] - gap.values[1])  # type: ignore[operator]
    text = comparison_text(said)
    assert "one against two" in text
    for verdict in said.disagreements:
        assert verdict.sample.id in text
    turned = compare_runs((pair[1], pair[0]), dataset)
    assert turned.metrics["auroc"].difference == pytest.approx(-gap.difference)  # type: ignore


def test_a_run_against_itself_parts_nowhere(pair: tuple[Run, Run], dataset: Dataset) -> None:
    said = compare_runs((pair[0], pair[0]), dataset)
    assert said.disagreements == ()
    assert all(one.difference in (0, None) for one in said.metrics.values())
    assert "not significant" in comparison_text(said)


def test_pictures_hold_truth_and_both_runs(
    pair: tuple[Run, Run], dataset: Dataset, tmp_path: Path
) -> None:
    said = compare_runs(pair, dataset)
    files = write_plots(said, pair, dataset, tmp_path / "out")
    assert len(files) == len(said.disagreements)
    for file, verdict in zip(files, said.disagreements, strict=True):
        assert file.parent.name == f"{said.names[verdict.right]}-right"
        height, width = cv2.imread(str(file)).shape[:2]
        image = cv2.imread(str(verdict.sample.image))
        assert width == 3 * image.shape[1] + 2 * 8
        assert height > image.shape[0]


def test_runs_that_cannot_be_compared(
    pair: tuple[Run, Run], dataset: Dataset, tmp_path: Path
) -> None:
    other_fold = make_run(tmp_path / "c", dataset, FOLDS - 1)
    with pytest.raises(RunError, match="another fold"):
        compare_runs((pair[0], other_fold), dataset)
    blind = make_run(tmp_path / "d", dataset, 0)
    blind.record["split"]["val"] = []
    with pytest.raises(RunError, match="no threshold"):
        compare_runs((pair[0], blind), dataset)
    other_split = make_run(tmp_path / "e", dataset, 0)
    other_split.record["split"]["hash"] = "0" * 12
    with pytest.raises(RunError, match="another split"):
        compare_runs((pair[0], other_split), dataset)


def test_the_command(
    pair: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["compare", str(pair[0].path), str(pair[1].path)])
    assert result.exit_code == 0, result.output
    assert "auroc: " in result.stdout
    assert sorted(f.suffix for f in (tmp_path / "compare").rglob("*.*")) == [".png"] * len(
        list((tmp_path / "compare").rglob("*.png"))
    )
    assert list((tmp_path / "compare").rglob("*.png"))
