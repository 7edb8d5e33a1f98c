"""`recommend`: chosen on validation among methods that meet the needs; the cheaper of equals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import toolkit
from tests.cli.command import run as command
from tests.leaderboards.standin import Grey, GreyPredictor, GreySettings, grey  # noqa: F401
from toolkit.config import setting
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.decisions.recommend import recommend
from toolkit.decisions.recommend_page import recommendation_page
from toolkit.errors import ConfigError, DataError, RunError
from toolkit.files import OutputError
from toolkit.methods import registry
from toolkit.prediction import Prediction
from toolkit.runs.run import Run
from toolkit.training import TrainingTask, run_training


@dataclass(frozen=True)
class NoisySettings(GreySettings):
    """Settings of the noisy stand-in."""

    noise: float = setting(0.0, "standard deviation of what is added to each score")


class Noisy(Grey):
    """Scores edges, which defects have more of, with noise that depends on the image alone."""

    name = "noisy"
    Settings = NoisySettings

    def load(self, run: Run) -> GreyPredictor:
        state = json.loads((run.weights / "state.json").read_text())
        return NoisyPredictor(self.settings, state)


class NoisyPredictor(GreyPredictor):
    """Scores the largest step between two rows."""

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        assert isinstance(self._settings, NoisySettings)
        found = []
        for image, one in zip(images, super().predict(images), strict=True):
            rng = np.random.default_rng(int(image.astype(np.int64).sum()))
            step = float(np.abs(np.diff(image.mean(axis=2), axis=0)).max())
            found.append(replace(one, score=step + rng.normal(0, self._settings.noise)))
        return found


@pytest.fixture
def noisy(grey: type[Grey], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    table = {**registry._BUILT_IN, "noisy": f"{__name__}:Noisy"}
    monkeypatch.setattr(registry, "_BUILT_IN", table)


ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "sharp": {"noise": 0.0},
    "alike": {"noise": 0.01},
    "poor": {"noise": 300.0},
    "plain": {"noise": 0.0, "gives": ("map",)},
}
COSTS = {"sharp": (9, 20.0), "alike": (0, 30.0), "poor": (9, 22.0), "plain": (9, 10.0)}
"""Labels, and milliseconds per image."""


@pytest.fixture(scope="module")
def made(sample_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods on three folds; `alike` needs no labels and `plain` is the fastest."""
    place = tmp_path_factory.mktemp("recommend") / "runs"
    dataset = load_dataset(sample_dir)
    plan = make_plan(dataset, folds=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._BUILT_IN, "noisy", f"{__name__}:Noisy")
        patch.setenv("TOOLKIT_HOME", str(place.parent / "home"))
        for name, settings in ENTRIES.items():
            for fold in range(3):
                task = TrainingTask("noisy", name, settings, device="cpu", fold=fold,
                                    name=f"{name}-{fold}")  # fmt: skip
                run = run_training(task, plan.fold(dataset, fold), runs=place)
                _rewrite(run, *COSTS[name])
    return place


@pytest.fixture
def runs(noisy: None, made: Path, tmp_path: Path) -> Path:
    """A copy of the runs, which a test may change."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def _rewrite(run: Run, labels: int, milliseconds: float) -> None:
    """Give a run known costs: the stand-in's own times differ from call to call."""
    record = json.loads((run.path / "run.json").read_text())
    kind = "image" if labels else "none"
    record["metadata"]["labels"] = {**record["metadata"]["labels"], "train": labels, "kind": kind}
    (run.path / "run.json").write_text(json.dumps(record))
    for part in ("val", "test"):
        file = run.predictions / f"{part}.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(
            "".join(json.dumps({**line, "seconds": milliseconds / 1e3}) + "\n" for line in lines)
        )


def test_the_cheaper_of_equals(runs: Path) -> None:
    found = recommend(runs)
    assert found.chosen is not None
    assert found.best is not None
    assert found.chosen.name == "alike"  # no labels, not significantly worse than `sharp`
    assert found.chosen.val == pytest.approx(found.best.val, abs=0.02)
    names = [one.name for one in found.candidates]
    assert names[-1] == "poor"
    text = str(found)
    assert text.startswith("sample: use alike")
    assert "with 3 folds the test figures are not wholly independent" in text


@pytest.mark.parametrize(
    ("needs", "chosen", "refused"),
    [
        ({"max_latency": 25}, "plain", {"alike": "30 ms, 25 allowed"}),
        ({"max_latency": 25, "needs": ["boxes"]}, "sharp", {"plain": "gives no boxes"}),
        ({"max_labels": 0}, "alike", {"sharp": "9 labelled defects, 0 allowed"}),
        ({"max_latency": 5}, None, {"plain": "10 ms, 5 allowed"}),
        ({"needs": ["masks", "classes"]}, "alike", {"plain": "gives no masks; gives no classes"}),
        ({"max_memory": 0}, None, {}),
    ],
)
def test_only_methods_that_meet_the_needs(
    needs: dict[str, Any], chosen: str | None, refused: dict[str, str], runs: Path
) -> None:
    found = recommend(runs, **needs)
    assert (found.chosen.name if found.chosen else None) == chosen
    by_name = {one.name: one for one in found.candidates}
    for name, why in refused.items():
        assert "; ".join(by_name[name].refused) == why
        assert why in str(found)
    if chosen is None:
        assert "no method meets all needs" in str(found)


def test_a_poor_method_is_not_taken_because_it_is_cheap(runs: Path) -> None:
    for fold in range(3):
        run = Run.open(runs / f"noisy/poor-{fold}")
        record = json.loads((run.path / "run.json").read_text())
        record["metadata"]["labels"] = {"kind": "none", "train": 0, "val": 6}
        (run.path / "run.json").write_text(json.dumps(record))
    found = recommend(runs)
    assert found.chosen is not None
    assert found.chosen.name == "alike"


def test_escapes_and_overkill_at_the_calibrated_threshold(runs: Path) -> None:
    from toolkit.decisions.calibration import false_alarm_threshold

    found = recommend(runs, max_false_alarms=0.3, confidence=0.9)
    one = next(one for one in found.candidates if one.name == "sharp")
    assert one.tested is not None
    folds = [Run.open(runs / f"noisy/sharp-{fold}") for fold in range(3)]
    scores = {
        (fold, part): {
            r["id"]: r["score"]
            for r in map(json.loads, (run.predictions / f"{part}.jsonl").read_text().splitlines())
        }
        for fold, run in enumerate(folds)
        for part in ("val", "test")
    }
    escapes = overkill = 0
    for fold in range(3):
        tested = scores[fold, "test"]
        good = [
            score
            for other in range(3)
            for name, score in scores[other, "val"].items()
            if "/good/" in name and name not in tested
        ]
        value = false_alarm_threshold(good, max_false_alarms=0.3, confidence=0.9).value
        escapes += sum("/good/" not in n and s < value for n, s in tested.items())
        overkill += sum("/good/" in n and s >= value for n, s in tested.items())
    assert (one.tested.escapes, one.tested.overkill) == (escapes, overkill)
    assert (one.tested.n_defect, one.tested.n_good) == (18, 6)
    assert "good validation images promise at most" in str(found)


def test_the_page_holds_reasons_needs_and_methods(runs: Path) -> None:
    page = recommendation_page(recommend(runs, max_latency=25, needs=["boxes"]))
    assert page.count("<tr") == 5
    assert '<tr class="chosen"><td>sharp' in page
    assert "latency: at most 25 ms" in page
    assert "outputs: boxes" in page
    assert "gives no boxes" in page


def test_the_latency_is_measured_where_the_run_was_made_elsewhere(runs: Path) -> None:
    for fold in range(3):
        path = runs / f"noisy/sharp-{fold}/run.json"
        record = json.loads(path.read_text())
        record["environment"]["processor"] = "another"
        path.write_text(json.dumps(record))
    found = {one.name: one.latency for one in recommend(runs).candidates}
    assert found["sharp"] != pytest.approx(20)
    assert found["plain"] == pytest.approx(10)
    again = {one.name: one.latency for one in recommend(runs, measure=True).candidates}
    assert again["plain"] != pytest.approx(10)


@pytest.mark.parametrize(
    ("needs", "error", "message"),
    [
        ({"needs": ["box"]}, ConfigError, "--needs box: unknown; did you mean 'boxes'"),
        ({"max_latency": -1}, ConfigError, "max_latency=-1: must be 0 or more"),
        ({"max_labels": -3}, ConfigError, "max_labels=-3: must be 0 or more"),
        ({"max_memory": float("nan")}, ConfigError, "max_memory=nan"),
        ({"max_false_alarms": 1.5}, DataError, "max_false_alarms=1.5"),
        ({"confidence": 0}, DataError, "confidence=0"),
    ],
)
def test_wrong_needs(needs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        toolkit.recommend("nowhere", **needs)
    assert "\n" not in str(found.value)


def test_runs_that_cannot_be_compared(noisy: None, sample_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(sample_dir)
    official = make_plan(dataset, protocol="official").fold(dataset, 0)
    task = TrainingTask("noisy", "a", device="cpu")
    run_training(task, official, runs=tmp_path / "official")
    with pytest.raises(RunError, match=r"no defect images.*use runs of protocol supervised"):
        recommend(tmp_path / "official")
    run_training(task, make_plan(dataset, folds=3).fold(dataset, 0), runs=tmp_path / "other")
    with pytest.raises(RunError, match="one data set and split, found: sample"):
        recommend([tmp_path / "official", tmp_path / "other"])


def test_the_command(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("recommend", runs, "--max-latency", 25, "--needs", "boxes,classes")
    assert result.exit_code == 0
    assert result.stdout.startswith("sample: use sharp")
    assert "use sharp" in Path("recommendation.html").read_text()
    with pytest.raises(OutputError, match="already there"):
        command("recommend", runs)
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        command("recommend", runs, "--out", "page.txt")
    result = command("recommend", runs, "--max-latency", 1, "--overwrite")
    assert result.exit_code == 1
    assert "no method meets all needs" in result.stdout
