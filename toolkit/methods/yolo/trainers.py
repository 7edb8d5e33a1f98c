"""Ultralytics' trainers with our network, optimiser groups and places for files.

Imports Ultralytics, so it is imported inside functions, after `ultralytics_env.prepare`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.models.yolo.world.train import on_pretrain_routine_end
from ultralytics.nn.tasks import DetectionModel, WorldModel
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from toolkit import ultralytics_env
from toolkit.methods.yolo import network as networks
from toolkit.methods.yolo.checkpoint import Copied, copy_weights, load_network
from toolkit.methods.yolo.precision import InBfloat16
from toolkit.methods.yolo.prompt_tuning import (
    add_prompts,
    answer_from_prompts,
    keep_statistics,
    prompts_for_texts,
)
from toolkit.methods.yolo.resuming import restore_state, save_state
from toolkit.methods.yolo.workers import Recipe, join, own_job


class _Recipe:
    """What both trainers do alike; stands before Ultralytics' class in the order of bases."""

    recipe: Recipe
    copied: Copied | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Ultralytics' arguments, and the job of a process that is one of several."""
        job = own_job()
        if job is not None:
            ultralytics_env.prepare()
        super().__init__(*args, **kwargs)
        if job is not None:
            join(self, job)

    def follow(self, recipe: Recipe, *, weights: Path) -> None:
        """Set the recipe and the folder of `best.pt` and `last.pt`; call before `train`.

        Where `train` starts other processes, these are what trains (`workers`).
        """
        trainer: Any = self
        if recipe.freeze_epochs and not trainer.ddp:
            trainer.add_callback("on_train_epoch_start", _thaw)
        if trainer.resume and not trainer.ddp:
            trainer.add_callback("on_train_start", restore_state)
        made_by_ultralytics = trainer.wdir
        trainer.recipe = recipe
        trainer.wdir, trainer.last, trainer.best = weights, weights / "last.pt", weights / "best.pt"
        first = RANK in (-1, 0)
        if first and made_by_ultralytics != weights and made_by_ultralytics.is_dir():
            made_by_ultralytics.rmdir()

    def fill(self, network: Any, resumed: Any) -> Any:
        """Give a new network its weights: those of an interrupted run, or the recipe's start."""
        import torch

        networks.set_bn_momentum(network, self.recipe.bn_momentum)
        # Faster by a third on a CPU; Ultralytics does it on GPUs only.
        network.to(memory_format=torch.channels_last)
        if resumed is not None:
            network.load(resumed, verbose=False)
            return network
        if self.recipe.start is not None:
            source = load_network(self.recipe.start, trust=self.recipe.trust)
            self.copied = copy_weights(network, source)
        return network

    def _setup_train(self) -> None:
        """Set up as Ultralytics does, and let the finished network compute in bfloat16."""
        super()._setup_train()  # type: ignore[misc]
        if self.recipe.bfloat16:
            trainer: Any = self
            trainer.model = InBfloat16(trainer.model)

    def _model_train(self) -> None:
        """Begin an epoch's training; where prompts are tuned, no statistics follow the data.

        Ultralytics keeps the batch norms of frozen layers still, but knows the contrastive head
        only whole, whose scale and bias may learn.
        """
        super()._model_train()  # type: ignore[misc]
        if self.recipe.tuned_prompts is not None:
            trainer: Any = self
            keep_statistics(trainer.model)

    def save_model(self) -> bool:
        """Write Ultralytics' checkpoints, and beside them what resuming needs."""
        saved: bool = super().save_model()  # type: ignore[misc]
        save_state(self)
        return saved

    def build_optimizer(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Build Ultralytics' optimiser, then let the untrained layers learn faster."""
        optimizer = super().build_optimizer(model, *args, **kwargs)  # type: ignore[misc]
        factor = self.recipe.head_lr_factor
        if factor != 1:
            fresh = {id(p) for p in networks.untrained_parameters(unwrap_model(model))}
            _split_groups(optimizer, fresh=fresh, factor=factor)
        return optimizer


class YoloTrainer(_Recipe, DetectionTrainer):  # type: ignore[misc]
    """Trains a plain detector."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the network of the recipe; Ultralytics calls it in `setup_model`."""
        layers = networks.model_yaml(self.recipe.model)
        nc, channels = self.data["nc"], self.data["channels"]
        network = DetectionModel(layers, ch=channels, nc=nc, verbose=False)
        # A class of the same name in the checkpoint hands over its row of the last layer.
        network.names = self.data["names"]
        return self.fill(network, weights)


class YoloWorldTrainer(_Recipe, WorldTrainer):  # type: ignore[misc]
    """Trains a detector whose classes come from text."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the network of the recipe; Ultralytics calls it in `setup_model`."""
        layers = networks.model_yaml(self.recipe.model)
        nc, channels = self.data["nc"], self.data["channels"]
        network = WorldModel(layers, ch=channels, nc=nc, verbose=False)
        # Before the weights are filled in, which replace it where they have such a head.
        networks.start_contrastive_head(network)
        if self.recipe.tuned_prompts is not None:
            add_prompts(network, self.recipe.tuned_prompts, list(self.data["names"].values()))
            self.add_callback("on_train_epoch_end", _validate_with_prompts)
        if on_pretrain_routine_end not in self.callbacks["on_pretrain_routine_end"]:
            self.add_callback("on_pretrain_routine_end", on_pretrain_routine_end)
        return self.fill(network, weights)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the embeddings to a batch; those that learn keep their tie to the parameter."""
        batch = super().preprocess_batch(batch)
        if self.recipe.tuned_prompts is not None:
            batch["txt_feats"] = prompts_for_texts(
                unwrap_model(self.model), batch["texts"], list(self.data["names"].values())
            )
        return batch


def _validate_with_prompts(trainer: Any) -> None:
    answer_from_prompts(trainer.ema.ema)


def _thaw(trainer: Any) -> None:
    """Let frozen layers learn from the epoch on that the recipe names."""
    if trainer.epoch < trainer.recipe.freeze_epochs:
        return
    trainer.freeze_layer_names = [".dfl"]  # what Ultralytics always keeps
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad = ".dfl" not in name


def _split_groups(optimizer: Any, *, fresh: set[int], factor: float) -> None:
    """Move the parameters in `fresh` into groups of their own with `factor` times the rate."""
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in fresh]
        if moved:
            group["params"] = [p for p in group["params"] if id(p) not in fresh]
            rest = {key: value for key, value in group.items() if key != "params"}
            optimizer.add_param_group({**rest, "params": moved, "lr": group["lr"] * factor})
