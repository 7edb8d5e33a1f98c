"""Several processes of one training: they find their job, and train as one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.config import settings_dict
from toolkit.data.layouts import read_dataset
from toolkit.data.splits import make_plan
from toolkit.methods.registry import method_class
from toolkit.methods.yolo.prompts import load_bank, orthonormal_bank
from toolkit.methods.yolo.workers import JOB, Job, Recipe, own_job, told
from toolkit.runs.run import Run

# Ultralytics knows several processes on GPUs only. This stands before its script and makes it
# train on two CPU processes, whose gradients are joined by gloo as those of GPUs are by NCCL.
LAUNCHER = """
import runpy, sys
from types import SimpleNamespace
from torch import device, distributed, nn
from toolkit import ultralytics_env

ultralytics_env.prepare()
from ultralytics.engine import validator
from ultralytics.engine.trainer import BaseTrainer

Backend, Parallel = validator.AutoBackend, nn.parallel.DistributedDataParallel

class OnCpu(Parallel):
    def __init__(self, module, device_ids=None, **options):
        super().__init__(module, **options)

def on_cpu(**options):
    return Backend(**{**options, "device": device("cpu")})

made = BaseTrainer.__init__

def one_of_two(self, *args, **kwargs):
    made(self, *args, **kwargs)
    self.world_size = 2

nn.parallel.DistributedDataParallel = OnCpu
validator.AutoBackend = on_cpu
validator.get_torch_device_backend = lambda _: SimpleNamespace(current_device=lambda: 0)
BaseTrainer.__init__ = one_of_two
BaseTrainer._setup_ddp = lambda self: distributed.init_process_group("gloo")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("tuned", [False, True])
def test_a_job_reaches_the_processes_as_it_was_given(tuned: bool, tmp_path: Path) -> None:
    bank = orthonormal_bank(["crack", "dirt"])
    bank.save(tmp_path / "bank.safetensors")
    recipe = Recipe(
        model="yolo11n-world",
        start=tmp_path / "start.pt",
        head_lr_factor=3.0,
        bn_momentum=0.1,
        trust=True,
        freeze_epochs=2,
        tuned_prompts=bank if tuned else None,
    )
    assert own_job() is None
    with told(Job(tmp_path, "a training", tmp_path / "bank.safetensors", recipe)):
        found = own_job()
    assert own_job() is None
    assert JOB not in os.environ
    assert not (tmp_path / "job.json").exists()
    assert found is not None
    assert (found.run, found.title, found.bank) == (
        tmp_path, "a training", tmp_path / "bank.safetensors",
    )  # fmt: skip
    for name in ("model", "start", "head_lr_factor", "bn_momentum", "trust", "freeze_epochs"):
        assert getattr(found.recipe, name) == getattr(recipe, name)
    if tuned:
        assert found.recipe.tuned_prompts is not None
        np.testing.assert_allclose(found.recipe.tuned_prompts.vectors, bank.vectors, atol=1e-6)
    else:
        assert found.recipe.tuned_prompts is None


def test_a_job_without_text_or_start(tmp_path: Path) -> None:
    recipe = Recipe(model="yolo11n", start=None, head_lr_factor=1.0, bn_momentum=0.1)
    with told(Job(tmp_path, "a training", None, recipe)):
        assert own_job() == Job(tmp_path, "a training", None, recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("yolo", {}), ("yolo-world", {}), ("yolo-world", {"train": "prompts"})],
)
def test_two_processes_train_one_network(
    name: str,
    settings: dict[str, Any],
    sample_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from toolkit import ultralytics_env

    ultralytics_env.prepare()
    from ultralytics.engine import trainer as engine

    launcher = tmp_path / "launcher.py"
    launcher.write_text(LAUNCHER)
    made, command = engine.BaseTrainer.__init__, engine.generate_ddp_command

    def starts_two(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.ddp, self.world_size = True, 2

    def by_launcher(trainer: Any) -> tuple[list[str], str]:
        words, script = command(trainer)
        return [*words[:-1], str(launcher), words[-1]], script

    monkeypatch.setattr(engine.BaseTrainer, "__init__", starts_two)
    monkeypatch.setattr(engine, "generate_ddp_command", by_launcher)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))

    cls = method_class(name)
    values = cls.Settings(
        weights="none", epochs=2, image_size=64, backgrounds="2", batch=8, precision="float32",
        extra={"plots": False}, **settings,
    )  # fmt: skip
    dataset = read_dataset(sample_dir)
    split = make_plan(dataset, folds=3).fold(dataset, 0)
    run = Run.create(
        tmp_path, method=name, settings=settings_dict(values), split={}, data={}, seed=3
    )
    method = cls(values)
    method.fit(split, run)

    assert [row["epoch"] for row in run.results()] == ["1", "2"]
    assert run.metadata["epochs_done"] == 2
    assert run.metadata["train_images"] > 8  # noted by the first process
    assert "Starting training for 2 epochs" in (run.path / "log.txt").read_text()
    assert JOB not in os.environ
    assert not (run.path / "job.json").exists()
    assert len(list(method.predict(split.val, run))) == len(split.val)
    if name == "yolo-world":
        (cached,) = (run.path / "data").rglob("text_embeddings*.pt")
        answers = torch.load(cached, weights_only=True)
        bank = load_bank(run.weights / "phrases.safetensors")
        assert set(answers) == set(split.dataset.classes)
        if settings.get("train") != "prompts":
            bank = load_bank(run.weights / "prompts.safetensors")
            for phrase, vector in answers.items():
                np.testing.assert_array_equal(vector.numpy(), bank.of([phrase])[0])
