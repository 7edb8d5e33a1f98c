"""Several processes of one training: what each of them has to know beside Ultralytics' arguments.

On several GPUs Ultralytics writes a script that builds the trainer anew, in one process per GPU,
from its class, its arguments and its callbacks. What our trainers know beside that they find in a
file, whose name the processes inherit in their environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.files import read_json, write_json
from toolkit.methods.yolo.prompts import PromptBank, load_bank

JOB = "TOOLKIT_YOLO_JOB"
_FILE = "job.json"


@dataclass(frozen=True)
class Recipe:
    """What our trainers know beside Ultralytics' arguments.

    Attributes:
        model: name of the network.
        start: checkpoint to start from; None from scratch.
        head_lr_factor: multiplies the learning rate of the layers that start untrained.
        bn_momentum: of all batch norms.
        bfloat16: whether the forward pass of training is in bfloat16.
        trust: whether the checkpoint may run code when it is read.
        freeze_epochs: the epoch from which frozen layers learn after all; 0 for never.
        tuned_prompts: the embeddings to start from, where only these learn.
    """

    model: str
    start: Path | None
    head_lr_factor: float
    bn_momentum: float
    bfloat16: bool = False
    trust: bool = False
    freeze_epochs: int = 0
    tuned_prompts: PromptBank | None = None


@dataclass(frozen=True)
class Job:
    """A training as its processes are told of it.

    Attributes:
        run: the run directory.
        title: of the training, for its progress.
        bank: file of the text embeddings; None for a plain detector.
        recipe: of the trainer.
    """

    run: Path
    title: str
    bank: Path | None
    recipe: Recipe


@contextmanager
def told(job: Job) -> Iterator[None]:
    """Let every process that is started inside the block find its job."""
    recipe = asdict(job.recipe)
    recipe["start"] = None if job.recipe.start is None else str(job.recipe.start.resolve())
    recipe["tuned_prompts"] = job.recipe.tuned_prompts is not None
    path = job.run.resolve() / _FILE
    bank = None if job.bank is None else str(job.bank.resolve())
    write_json(path, {"title": job.title, "bank": bank, "recipe": recipe})
    os.environ[JOB] = str(path)
    try:
        yield
    finally:
        del os.environ[JOB]
        path.unlink()


def own_job() -> Job | None:
    """Return what this process was told; None where it was not started for a training."""
    if JOB not in os.environ:
        return None
    path = Path(os.environ[JOB])
    record = read_json(path)
    bank = None if record["bank"] is None else Path(record["bank"])
    recipe = record["recipe"]
    recipe["start"] = None if recipe["start"] is None else Path(recipe["start"])
    tuned = recipe["tuned_prompts"] and bank is not None
    recipe["tuned_prompts"] = load_bank(bank) if tuned and bank is not None else None
    return Job(path.parent, record["title"], bank, Recipe(**recipe))


def join(trainer: Any, job: Job) -> None:
    """Make a trainer that Ultralytics' script has built one of ours.

    Its text embeddings come from the bank as long as the process lives. The first process writes
    the run's results and log.
    """
    from ultralytics.utils import RANK

    from toolkit import ultralytics_env
    from toolkit.methods.yolo.text_seam import answered_from
    from toolkit.methods.yolo.training import report_to
    from toolkit.runs.run import Run

    run = Run.open(job.run)
    trainer.follow(job.recipe, weights=run.weights)
    lasting = ExitStack()
    if job.bank is not None:
        lasting.enter_context(answered_from(load_bank(job.bank)))
    if RANK in (-1, 0):
        lasting.enter_context(ultralytics_env.logged(run.log))
        report_to(trainer, run=run, title=job.title, stack=lasting)
    trainer.add_callback("teardown", lambda _: lasting.close())
