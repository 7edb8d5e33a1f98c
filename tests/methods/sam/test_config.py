"""The shipped configs of SAM are whole, and name what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.benchmarking.grid import read_benchmark, training_tasks
from toolkit.config import build_settings
from toolkit.methods.sam.settings import SamSettings
from toolkit.training import read_method_config

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(ROOT))


def test_the_default_config_has_the_defaults_of_the_settings() -> None:
    method, values, source = read_method_config("sam/default", {})
    assert method == "sam"
    assert build_settings(SamSettings, values, source=source) == SamSettings()


def test_patchcore_prompts_sam_of_the_same_fold() -> None:
    tasks = training_tasks(read_benchmark(str(ROOT / "configs/benchmark/sam.yaml")))
    assert {(t.entry, t.fold) for t in tasks} == {
        (entry, fold) for entry in ("patchcore", "sam-from-patchcore") for fold in range(5)
    }
    names = {(t.entry, t.fold): f"{t.method}/{t.name}" for t in tasks}
    for index, task in enumerate(tasks):
        if task.entry != "sam-from-patchcore":
            assert not task.inputs
            continue
        wanted = names["patchcore", task.fold]
        assert [name for role, name in task.inputs.items() if role == "prompt_run"] == [wanted]
        assert wanted in {f"{t.method}/{t.name}" for t in tasks[:index]}, "made before it is read"
