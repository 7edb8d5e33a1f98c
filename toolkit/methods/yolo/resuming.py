"""What an interrupted training needs beside Ultralytics' checkpoint, so that it goes on exactly.

That checkpoint holds the averaged weights and the optimiser in half precision, no live weights and
no state of the random numbers. A second file holds them all as they are. With it a training that
was stopped ends with the weights of one that was not: bit for bit on a CPU, where the training
process loads the images itself (a GPU's loading processes draw ahead).

Imports torch, so it is imported inside functions or beside it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import strip_optimizer, unwrap_model

from toolkit.files import atomic_write

STATE = "resume.pt"


def save_state(trainer: Any) -> None:
    """Write the state at the end of an epoch beside the checkpoint of that epoch."""
    state = {
        "epoch": trainer.epoch,
        "model": unwrap_model(trainer.model).state_dict(),
        "averaged": trainer.ema.ema.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "random": _random_state(trainer.train_loader),
    }
    with atomic_write(trainer.wdir / STATE) as temporary:
        torch.save(state, temporary)


def restore_state(trainer: Any) -> None:
    """Put a resumed training back where it was; call when Ultralytics has set everything up.

    Without a file of the checkpoint's epoch the training goes on as Ultralytics does it.
    """
    path = trainer.wdir / STATE
    state: dict[str, Any] = {"epoch": None}
    if path.is_file():
        state = torch.load(path, weights_only=True)
    if state["epoch"] != trainer.start_epoch - 1:
        LOGGER.warning(f"no {STATE} of this epoch: going on from weights in half precision")
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


def has_ended(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the epoch of a checkpoint was the last one: of all, or for want of patience.

    Ultralytics goes on from neither: it refuses the first, and trains on past the second.
    """
    epochs, asked = checkpoint["epoch"] + 1, checkpoint["train_args"]
    best = (checkpoint.get("stopper") or {}).get("best_epoch", epochs)
    waited = asked["patience"] and epochs - best >= asked["patience"]
    return bool(epochs >= asked["epochs"] or waited)


def finish(weights: Path, *, source: Path) -> None:
    """Do what Ultralytics does after the last epoch: drop what only training needs.

    Args:
        weights: the folder of `last.pt` and `best.pt`.
        source: the checkpoint of the last epoch, which is `best.pt` where `last.pt` is damaged.
    """
    last, best = weights / "last.pt", weights / "best.pt"
    if source != last:
        with atomic_write(last) as temporary:
            shutil.copyfile(source, temporary)
    # The last one at the end, because by it a training is known to be finished.
    for path in (best, last):
        if path.is_file():
            with atomic_write(path) as temporary:
                strip_optimizer(path, s=str(temporary))


def forget_state(weights: Path) -> None:
    """Remove the file, which a finished training has no use for."""
    (weights / STATE).unlink(missing_ok=True)


def _random_state(loader: Any) -> dict[str, Any]:
    # NumPy's state as plain numbers, so that the file can be read without running it.
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "loader": loader.generator.get_state(),
    }


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
