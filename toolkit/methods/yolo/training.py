"""One training by Ultralytics inside a run directory: arguments, progress, results, resuming."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import ConfigError, did_you_mean
from toolkit.methods.yolo.settings import RESERVED, YoloSettings
from toolkit.progress import Progress, progress
from toolkit.runs.run import Run

State = Literal["new", "interrupted", "trained", "finished"]

_PLOTS = (".png", ".jpg")
_METRICS = {
    "metrics/precision(B)": "val_precision",
    "metrics/recall(B)": "val_recall",
    "metrics/mAP50(B)": "val_map50",
    "metrics/mAP50-95(B)": "val_map50_95",
}


def output_folder(run: Run) -> Path:
    """Return where Ultralytics keeps its own records of the run (`args.yaml`, `results.csv`)."""
    return run.path / "ultralytics"


def arguments(
    settings: YoloSettings,
    *,
    run: Run,
    data: Path,
    symmetry: Mapping[str, float],
    freeze: Sequence[int | str],
) -> dict[str, Any]:
    """Return Ultralytics' training arguments; `settings.extra` wins over what is not the run's.

    Args:
        settings: of the method.
        run: where everything is written.
        data: the `data.yaml`.
        symmetry: Ultralytics' `fliplr`, `flipud` and `degrees`.
        freeze: layers, and parts of layers, that do not learn.
    """
    free = {
        "epochs": settings.epochs,
        "patience": settings.patience,
        "imgsz": settings.image_size,
        "batch": settings.batch,
        # Its nominal batch of 64 would mean one optimiser step per epoch on 50 images.
        "nbs": settings.batch,
        "optimizer": settings.optimizer,
        "lr0": settings.lr,
        "warmup_bias_lr": 0.0,
        "freeze": list(freeze) or None,
        "mosaic": settings.mosaic,
        "close_mosaic": min(settings.close_mosaic, settings.epochs),
        "scale": settings.scale,
        **symmetry,
        "cache": settings.cache,
        "workers": settings.workers,
        "iou": settings.nms_iou,
        # Mixed precision is checked with a model that would be downloaded.
        "amp": False,
        "plots": True,
        "deterministic": True,
        **settings.extra,
    }
    fixed = {
        "task": "detect",
        "mode": "train",
        "model": f"{settings.model}.yaml",
        "data": str(data),
        "seed": run.seed,
        "device": _device(run.device),
        "save_dir": str(output_folder(run)),
        "exist_ok": True,
        "val": True,
        "save": True,
        "pretrained": False,
    }
    return {**free, **fixed}


def check_extra(extra: Mapping[str, Any]) -> None:
    """Refuse arguments that Ultralytics does not know, or values that it does not take.

    Raises:
        ConfigError: names the argument and the nearest known one.
    """
    from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg

    unknown = [key for key in extra if key not in DEFAULT_CFG_DICT]
    if unknown:
        raise ConfigError(
            f"extra: Ultralytics has no argument '{unknown[0]}'"
            f"{did_you_mean(unknown[0], set(DEFAULT_CFG_DICT) - RESERVED)}"
        )
    try:
        get_cfg(overrides=dict(extra))
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"extra: {reason}") from error


def progress_of(run: Run) -> tuple[State, Path | None]:
    """Tell how far a training got, from its checkpoints.

    Returns:
        `finished` (Ultralytics drops the optimiser's state at the end), `trained` (killed between
        the last epoch and that) or `interrupted`, with the checkpoint to go on from, or `new`.
    """
    from ultralytics.nn.tasks import torch_safe_load

    from toolkit.methods.yolo.resuming import has_ended

    # A kill while the last checkpoint was written leaves the best one, which is as complete.
    for path in (run.weights / "last.pt", run.weights / "best.pt"):
        if not path.is_file():
            continue
        try:
            checkpoint, _ = torch_safe_load(path)
        except (TypeError, RuntimeError, OSError, EOFError):
            run.log(f"{path.name} is damaged and is not used")
            continue
        if isinstance(checkpoint, dict) and checkpoint.get("optimizer") is not None:
            _mend_results(run, checkpoint)
            return ("trained" if has_ended(checkpoint) else "interrupted"), path
        return "finished", path
    return "new", None


def train(trainer: Any, *, run: Run, title: str, bank: Path | None) -> None:
    """Run Ultralytics' loop, and keep its results, plots and figures in the run.

    Args:
        trainer: follows its recipe.
        run: where everything is written.
        title: of the progress.
        bank: file of the text embeddings, for processes of their own; None without text.
    """
    from toolkit.methods.yolo.workers import Job, told

    if trainer.ddp:  # one process per GPU, of which the first reports
        with told(Job(run=run.path, title=title, bank=bank, recipe=trainer.recipe)):
            trainer.train()
        run.record.update(Run.open(run.path).record)
    else:
        with ExitStack() as stack:
            report_to(trainer, run=run, title=title, stack=stack)
            trainer.train()
    conclude(run)


def conclude(run: Run) -> None:
    """Keep a finished training's plots, and nothing that only an interrupted one needs."""
    from toolkit.methods.yolo.resuming import forget_state

    forget_state(run.weights)
    _keep_plots(output_folder(run), run.plots)
    run.update_metadata(epochs_done=int(run.results()[-1]["epoch"]))


def report_to(trainer: Any, *, run: Run, title: str, stack: ExitStack) -> None:
    """Let a trainer write its epochs into the run and show its progress.

    Args:
        trainer: before it starts.
        run: receives a row of results per epoch.
        title: of the progress.
        stack: keeps the progress open.
    """
    bars: list[Progress] = []
    last: dict[str, str] = {}
    watch = _Watch()

    def on_train_start(trainer: Any) -> None:
        run.update_metadata(train_images=len(trainer.train_loader.dataset))
        if trainer.copied is not None:
            run.update_metadata(
                tensors_copied=f"{len(trainer.copied.names)} of {trainer.copied.total}"
            )
            run.log(trainer.copied.describe())
        steps = len(trainer.train_loader) * (trainer.epochs - trainer.start_epoch)
        bars.append(stack.enter_context(progress(title, steps)))

    def on_train_epoch_start(trainer: Any) -> None:
        watch.start()

    def on_train_batch_start(trainer: Any) -> None:
        watch.loaded()

    def on_train_batch_end(trainer: Any) -> None:
        watch.stepped()
        bars[0].advance(1, epoch=f"{trainer.epoch + 1}/{trainer.epochs}", **last)

    def on_fit_epoch_end(trainer: Any) -> None:
        if not trainer.validator.training:
            return  # the validation of the best weights after the last epoch
        row = result_row(trainer) | {"loading_share": round(watch.loading_share, 4)}
        run.add_result(row)
        last["mAP50"] = f"{row['val_map50']:.3f}"

    for hook in (
        on_train_start, on_train_epoch_start, on_train_batch_start, on_train_batch_end,
        on_fit_epoch_end,
    ):  # fmt: skip
        trainer.add_callback(hook.__name__, hook)


class _Watch:
    """Parts the time of an epoch's steps into waiting for data and everything else."""

    def start(self) -> None:
        self._mark, self._loading, self._steps = time.perf_counter(), 0.0, 0.0

    def loaded(self) -> None:
        self._loading += self._lap()

    def stepped(self) -> None:
        self._steps += self._lap()

    @property
    def loading_share(self) -> float:
        return self._loading / max(self._loading + self._steps, 1e-9)

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before


def result_row(trainer: Any) -> dict[str, float | int]:
    """Return one epoch's figures under this project's names, with their units' usual scale."""
    row: dict[str, float | int] = {"epoch": trainer.epoch + 1}
    row |= {f"train_{name}": float(value) for name, value in trainer.tloss.items()}
    for name, value in trainer.metrics.items():
        if name.startswith("val/"):
            row[f"val_{name.removeprefix('val/')}"] = float(value)
    for name, ours in _METRICS.items():
        row[ours] = float(trainer.metrics[name])
    row["lr"] = float(next(iter(trainer.lr.values())))
    row["seconds"] = round(float(trainer.epoch_time), 2)
    return row


def _mend_results(run: Run, checkpoint: Mapping[str, Any]) -> None:
    """Add the row of a checkpoint's epoch where the kill came between the two.

    Ultralytics keeps its own table inside the checkpoint; what it does not know stays empty.
    """
    epoch = checkpoint["epoch"] + 1
    theirs = checkpoint.get("train_results") or {}
    if epoch not in theirs.get("epoch", ()) or any(
        row["epoch"] == str(epoch) for row in run.results()
    ):
        return
    place = theirs["epoch"].index(epoch)
    found = {name.strip(): column[place] for name, column in theirs.items()}
    row: dict[str, float | int] = {"epoch": epoch}
    for name, value in found.items():
        kind, _, figure = name.partition("/")
        if kind in ("train", "val"):
            row[f"{kind}_{figure}"] = float(value)
        elif name in _METRICS:
            row[_METRICS[name]] = float(value)
    run.add_result({**row, "lr": float(found["lr/pg0"])})


def _keep_plots(source: Path, plots: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.suffix in _PLOTS:
            shutil.move(file, plots / file.name)


def _device(device: str) -> str:
    """Return a torch device as Ultralytics names it: `cuda:1` is `1`."""
    if device == "cuda":
        return "0"
    return device.removeprefix("cuda:")
