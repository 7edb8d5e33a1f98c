"""DDP: processes inherit their job and train one network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.config import settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.registry import method_class
from toolkit.methods.yolo.ddp import JOB, TrainingJob, inherited_job, publish_job
from toolkit.methods.yolo.text_embeddings import load_text_embeddings
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


@pytest.mark.parametrize(
    "job",
    [
        TrainingJob(
            run="runs/yolo/001", title="a training", model="yolo11n", start=None,
            head_lr_mult=1.0, bn_momentum=0.1,
        ),
        TrainingJob(
            run="runs/yolo-world/001", title="a training", model="yolo11n-world",
            start="start.pt", head_lr_mult=3.0, bn_momentum=0.1, bfloat16=True, allow_pickle=True,
            embeddings="prompts.safetensors", train_embeddings=True,
        ),
    ],
)  # fmt: skip
def test_a_job_reaches_the_processes_unchanged(job: TrainingJob) -> None:
    assert inherited_job() is None
    with publish_job(job):
        assert inherited_job() == job
    assert JOB not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("yolo", {}), ("yolo-world", {}), ("yolo-world", {"trainable": "prompts"})],
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
        weights="none", epochs=2, image_size=64, background_images="2", batch=8,
        precision="float32", ultralytics_args={"plots": False}, **settings,
    )  # fmt: skip
    dataset = load_dataset(sample_dir)
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
    assert len(list(predict_samples(method.load(run), split.val))) == len(split.val)
    if name == "yolo-world":
        (cached,) = (run.path / "data").rglob("text_embeddings*.pt")
        answers = torch.load(cached, weights_only=True)
        bank = load_text_embeddings(run.weights / "phrases.safetensors")
        assert set(answers) == set(split.dataset.classes)
        if settings.get("trainable") != "prompts":
            bank = load_text_embeddings(run.weights / "prompts.safetensors")
            for phrase, vector in answers.items():
                np.testing.assert_array_equal(vector.numpy(), bank.of([phrase])[0])
