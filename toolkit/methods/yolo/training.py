"""Run Ultralytics' training inside a run directory: its arguments, progress and results."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError, did_you_mean
from toolkit.methods.yolo.ddp import publish_job
from toolkit.methods.yolo.network import describe_copied
from toolkit.methods.yolo.settings import RESERVED, YoloSettings
from toolkit.progress import Progress, progress
from toolkit.runs.run import Run

STATE = "resume.pt"
"""File beside the checkpoints that an interrupted training continues from."""

_FOLDER = "ultralytics"  # of its own records (`args.yaml`, `results.csv`)

METRICS = {
    "metrics/precision(B)": "val_precision",
    "metrics/recall(B)": "val_recall",
    "metrics/mAP50(B)": "val_map50",
    "metrics/mAP50-95(B)": "val_map50_95",
}
"""Ultralytics' names of validation metrics, and those of `results.csv`."""


def train_arguments(
    settings: YoloSettings,
    *,
    run: Run,
    data: Path,
    flips_and_rotation: Mapping[str, float],
    freeze: Sequence[int | str],
) -> dict[str, Any]:
    """Return Ultralytics' training arguments.

    `settings.ultralytics_args` wins over all but those that belong to the run.

    Args:
        settings: of the method, with the numbers that it leaves open filled in.
        run: where everything is written.
        data: the `data.yaml`.
        flips_and_rotation: `fliplr`, `flipud` and `degrees`.
        freeze: layers, and parts of layers, to freeze.
    """
    free = {
        "epochs": settings.epochs,
        "patience": settings.patience,
        "imgsz": settings.image_size,
        "batch": settings.batch,
        # The nominal batch of 64 would mean one optimizer step per epoch on 50 images.
        "nbs": settings.batch,
        "optimizer": settings.optimizer,
        "lr0": settings.lr,
        "warmup_bias_lr": 0.0,
        "freeze": list(freeze) or None,
        "mosaic": settings.mosaic,
        "close_mosaic": min(settings.close_mosaic, settings.epochs),
        "scale": settings.scale,
        **flips_and_rotation,
        "cache": settings.cache,
        "workers": settings.workers,
        "iou": settings.nms_iou,
        # Ultralytics checks mixed precision with a model that it would download.
        "amp": False,
        "plots": True,
        "deterministic": True,
        **settings.ultralytics_args,
    }
    fixed = {
        "task": "detect",
        "mode": "train",
        "model": f"{settings.model}.yaml",
        "data": str(data),
        "seed": run.seed,
        # Ultralytics names the device `cuda:1` as `1`.
        "device": "0" if run.device == "cuda" else run.device.removeprefix("cuda:"),
        "save_dir": str(run.path / _FOLDER),
        "exist_ok": True,
        "val": True,
        "save": True,
        "pretrained": False,
    }
    return {**free, **fixed}


def check_ultralytics_args(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that Ultralytics does not know, or values that it does not take.

    Raises:
        ConfigError: names the argument and the nearest known one.
    """
    from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg

    unknown = [key for key in arguments if key not in DEFAULT_CFG_DICT]
    if unknown:
        raise ConfigError(
            f"ultralytics_args: Ultralytics has no argument '{unknown[0]}'"
            f"{did_you_mean(unknown[0], set(DEFAULT_CFG_DICT) - RESERVED)}"
        )
    try:
        get_cfg(overrides=dict(arguments))
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"ultralytics_args: {reason}") from error


def train(trainer: Any, run: Run) -> None:
    """Run Ultralytics' training loop; the trainer has its job."""
    if trainer.ddp:  # one process per GPU, of which the first reports
        with publish_job(trainer.job):
            trainer.train()
        run.record.update(Run.open(run.path).record)
    else:
        with ExitStack() as stack:
            report_to(trainer, run=run, stack=stack)
            trainer.train()


def clean_up(run: Run) -> None:
    """Keep the plots of a finished training; remove what only an interrupted one needs."""
    (run.weights / STATE).unlink(missing_ok=True)
    for file in sorted((run.path / _FOLDER).iterdir()):
        if file.suffix in (".png", ".jpg"):
            shutil.move(file, run.plots / file.name)


def report_to(trainer: Any, *, run: Run, stack: ExitStack) -> None:
    """Let a trainer write its epochs into the run and show its progress.

    Args:
        trainer: before it starts.
        run: receives a row of results per epoch.
        stack: keeps the progress bar open.
    """
    bars: list[Progress] = []
    last: dict[str, str] = {}
    timer = _LoadingTimer()

    def on_train_start(trainer: Any) -> None:
        run.update_metadata(train_images=len(trainer.train_loader.dataset))
        if trainer.copied is not None:
            names, left = trainer.copied
            run.update_metadata(tensors_copied=f"{len(names)} of {len(names) + len(left)}")
            run.log(describe_copied(names, left))
        steps = len(trainer.train_loader) * (trainer.epochs - trainer.start_epoch)
        bars.append(stack.enter_context(progress(trainer.job.title, steps)))

    def on_train_epoch_start(trainer: Any) -> None:
        timer.start()

    def on_train_batch_start(trainer: Any) -> None:
        timer.loading += timer.lap()

    def on_train_batch_end(trainer: Any) -> None:
        timer.computing += timer.lap()
        bars[0].advance(1, epoch=f"{trainer.epoch + 1}/{trainer.epochs}", **last)

    def on_fit_epoch_end(trainer: Any) -> None:
        if not trainer.validator.training:
            return  # the validation of the best weights after the last epoch
        row = result_row(trainer) | {"loading_share": round(timer.loading_share, 4)}
        run.add_result(row)
        last["mAP50"] = f"{row['val_map50']:.3f}"

    for hook in (
        on_train_start, on_train_epoch_start, on_train_batch_start, on_train_batch_end,
        on_fit_epoch_end,
    ):  # fmt: skip
        trainer.add_callback(hook.__name__, hook)


class _LoadingTimer:
    """Divides the time of an epoch's steps into loading data and computing."""

    def start(self) -> None:
        self._mark, self.loading, self.computing = time.perf_counter(), 0.0, 0.0

    def lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before

    @property
    def loading_share(self) -> float:
        return self.loading / max(self.loading + self.computing, 1e-9)


def result_row(trainer: Any) -> dict[str, float | int]:
    """Return the row of `results.csv` of the current epoch."""
    row: dict[str, float | int] = {"epoch": trainer.epoch + 1}
    row |= {f"train_{name}": float(value) for name, value in trainer.tloss.items()}
    for name, value in trainer.metrics.items():
        if name.startswith("val/"):
            row[f"val_{name.removeprefix('val/')}"] = float(value)
    for theirs, ours in METRICS.items():
        row[ours] = float(trainer.metrics[theirs])
    row["lr"] = float(next(iter(trainer.lr.values())))
    row["seconds"] = round(float(trainer.epoch_time), 2)
    return row
