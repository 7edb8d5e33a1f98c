"""Resume an interrupted training exactly.

Ultralytics' checkpoint holds the averaged weights and the optimizer in half precision, neither the
live weights nor the state of the random numbers. A second file holds them all as they are. With it
a training that was stopped ends with the weights of one that was not: bit for bit on a CPU, where
the training process loads the images itself (loading processes of a GPU draw ahead).

Imports torch, so it is imported inside functions.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ultralytics.nn.tasks import torch_safe_load
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import strip_optimizer, unwrap_model

from toolkit.files import atomic_write
from toolkit.methods.yolo.training import METRICS, STATE
from toolkit.runs.run import Run

State = Literal["new", "interrupted", "trained", "finished"]


def training_state(run: Run) -> tuple[State, Path | None]:
    """Return how far a training got, from its checkpoints.

    Returns:
        `finished` (Ultralytics drops the optimizer's state at the end), `trained` (killed between
        the last epoch and that) or `interrupted`, with the checkpoint to continue from, or `new`.
    """
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
            _add_missing_result(run, checkpoint)
            return ("trained" if _has_ended(checkpoint) else "interrupted"), path
        return "finished", path
    return "new", None


def _has_ended(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's epoch was the last one: of all, or by patience.

    Ultralytics continues from neither: it refuses the first, and trains on past the second.
    """
    epochs, arguments = checkpoint["epoch"] + 1, checkpoint["train_args"]
    best = (checkpoint.get("stopper") or {}).get("best_epoch", epochs)
    waited = arguments["patience"] and epochs - best >= arguments["patience"]
    return bool(epochs >= arguments["epochs"] or waited)


def _add_missing_result(run: Run, checkpoint: Mapping[str, Any]) -> None:
    """Add the result row of a checkpoint's epoch where the kill came between the two.

    Ultralytics keeps its own table inside the checkpoint; columns that it lacks stay empty.
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
        elif name in METRICS:
            row[METRICS[name]] = float(value)
    run.add_result({**row, "lr": float(found["lr/pg0"])})


def finish_checkpoints(weights: Path, *, source: Path) -> None:
    """Drop from the checkpoints what only training needs, as Ultralytics does at the end.

    Args:
        weights: the folder of `last.pt` and `best.pt`.
        source: the checkpoint of the last epoch, which is `best.pt` where `last.pt` is damaged.
    """
    last, best = weights / "last.pt", weights / "best.pt"
    if source != last:
        with atomic_write(last) as temporary:
            shutil.copyfile(source, temporary)
    # `last.pt` comes last, because it marks the training as finished.
    for path in (best, last):
        if path.is_file():
            with atomic_write(path) as temporary:
                strip_optimizer(path, s=str(temporary))


def save_state(trainer: Any) -> None:
    """Write the state at the end of an epoch beside the checkpoint of that epoch."""
    # NumPy's state as plain numbers, so that the file can be read without unpickling objects.
    name, keys, *rest = np.random.get_state()
    state = {
        "epoch": trainer.epoch,
        "model": unwrap_model(trainer.model).state_dict(),
        "averaged": trainer.ema.ema.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "random": {
            "python": random.getstate(),
            "numpy": (name, np.asarray(keys).tolist(), *rest),
            "torch": torch.get_rng_state(),
            "loader": trainer.train_loader.generator.get_state(),
        },
    }
    with atomic_write(trainer.wdir / STATE) as temporary:
        torch.save(state, temporary)


def restore_state(trainer: Any) -> None:
    """Restore the state of a resumed training; a callback of `on_train_start`.

    Without a file of the checkpoint's epoch the training continues as Ultralytics does it.
    """
    path = trainer.wdir / STATE
    state: dict[str, Any] = {"epoch": None}
    if path.is_file():
        state = torch.load(path, weights_only=True)
    if state["epoch"] != trainer.start_epoch - 1:
        LOGGER.warning(f"no {STATE} of this epoch: continuing from weights in half precision")
        return
    unwrap_model(trainer.model).load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["averaged"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if trainer.start_epoch > trainer.epochs - trainer.args.close_mosaic:
        # Otherwise the loop closes it again and restarts the loader, which draws numbers.
        trainer._close_dataloader_mosaic()
        trainer.args.close_mosaic = 0
    if RANK == -1:  # processes of one training differ in their random numbers
        _restore_random(state["random"], trainer.train_loader)


def _restore_random(state: dict[str, Any], loader: Any) -> None:
    loader.iterator = loader._get_iterator()  # draws a number, so it comes first
    loader.generator.set_state(state["loader"])
    if len(loader.dataset) % loader.batch_size == 0:
        # The sampler of an epoch without a remainder ends when the next one begins, and draws then.
        torch.randperm(len(loader.dataset), generator=loader.generator)
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
