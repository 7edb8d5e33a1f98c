"""Pass a training job to each DDP process.

On several GPUs Ultralytics writes a script that builds the trainer again, in one process per GPU,
from its class and arguments alone. What our trainers need beside these is in an environment
variable that the processes inherit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

JOB = "TOOLKIT_YOLO_JOB"


@dataclass(frozen=True)
class TrainingJob:
    """What our trainers need beside Ultralytics' arguments, as JSON values.

    Attributes:
        run: the run directory.
        title: of the progress bar.
        model: name of the network.
        start: checkpoint to start from; None from scratch.
        head_lr_mult: multiplies the learning rate of the layers that start untrained.
        bn_momentum: of all batch norms.
        bfloat16: whether the forward pass of training is in bfloat16.
        allow_pickle: whether the checkpoint may run code when it is read.
        embeddings: file of the class embeddings; None for a plain detector.
        train_embeddings: whether the class embeddings are what is trained.
    """

    run: str
    title: str
    model: str
    start: str | None
    head_lr_mult: float
    bn_momentum: float
    bfloat16: bool = False
    allow_pickle: bool = False
    embeddings: str | None = None
    train_embeddings: bool = False


@contextmanager
def publish_job(job: TrainingJob) -> Iterator[None]:
    """Let every process that is started inside the block find the job with `inherited_job`."""
    os.environ[JOB] = json.dumps(asdict(job))
    try:
        yield
    finally:
        del os.environ[JOB]


def inherited_job() -> TrainingJob | None:
    """Return the job of this process; None where it is no DDP process."""
    return TrainingJob(**json.loads(os.environ[JOB])) if JOB in os.environ else None
