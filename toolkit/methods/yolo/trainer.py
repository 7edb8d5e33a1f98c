"""Ultralytics' trainers with our network, optimizer groups, precision and places for files.

Imports torch and Ultralytics, so it is imported inside functions, after `ultralytics_env.prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.models.yolo.world.train import on_pretrain_routine_end
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from toolkit import ultralytics_env
from toolkit.errors import ConfigError
from toolkit.methods.yolo import network as networks
from toolkit.methods.yolo.ddp import TrainingJob, inherited_job
from toolkit.methods.yolo.resume import restore_state, save_state
from toolkit.methods.yolo.text_embeddings import (
    TextEmbeddings,
    load_text_embeddings,
    text_embedding_patch,
)
from toolkit.methods.yolo.training import report_to
from toolkit.runs.environment import computes_bfloat16
from toolkit.runs.run import Run


class _Trainer:
    """Changes to both of Ultralytics' trainers; comes before them in the order of bases."""

    job: TrainingJob
    copied: tuple[list[str], list[str]] | None = None
    """Names of the tensors that were copied from a checkpoint, and of the others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take Ultralytics' arguments, and the job of a DDP process."""
        job = inherited_job()
        if job is not None:
            ultralytics_env.prepare()
        super().__init__(*args, **kwargs)
        if job is not None:
            self._join(job)

    def _join(self, job: TrainingJob) -> None:
        """Take over a job as one of several processes, the first of which reports."""
        trainer: Any = self
        run = Run.open(job.run)
        self.configure(job, weights=run.weights)
        stack = ExitStack()
        if job.embeddings is not None:
            stack.enter_context(text_embedding_patch(load_text_embeddings(Path(job.embeddings))))
        if RANK in (-1, 0):
            stack.enter_context(ultralytics_env.logged(run.log))
            report_to(trainer, run=run, stack=stack)
        trainer.add_callback("teardown", lambda _: stack.close())

    def configure(self, job: TrainingJob, *, weights: Path) -> None:
        """Set the job and the folder of `best.pt` and `last.pt`; call before `train`."""
        trainer: Any = self
        if trainer.resume and not trainer.ddp:
            trainer.add_callback("on_train_start", restore_state)
        made_by_ultralytics = trainer.wdir
        trainer.job = job
        trainer.wdir, trainer.last, trainer.best = weights, weights / "last.pt", weights / "best.pt"
        first = RANK in (-1, 0)
        if first and made_by_ultralytics != weights and made_by_ultralytics.is_dir():
            made_by_ultralytics.rmdir()

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the network with its initial weights; Ultralytics calls it in `setup_model`."""
        trainer: Any = self
        data, job = trainer.data, self.job
        network = networks.build_network(job.model, nc=data["nc"], ch=data["channels"])
        self.prepare_network(network)
        for module in network.modules():
            # The 0.03 of Ultralytics needs some hundred batches to follow; 50 images have three
            # per epoch, so validation would see statistics of outdated weights.
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = job.bn_momentum
        # Faster by a third on a CPU; Ultralytics does it on GPUs only.
        network.to(memory_format=torch.channels_last)
        if weights is not None:  # of an interrupted run
            network.load(weights, verbose=False)
        elif job.start is not None:
            source = networks.load_network(Path(job.start), allow_pickle=job.allow_pickle)
            # It takes over hidden layers of the class branch, too, whose width depends on the
            # number of classes that the source was trained for.
            network.load(deepcopy(source), verbose=False)
            self.copied = networks.matching_tensors(network, source)
        return network

    def prepare_network(self, network: Any) -> None:
        """Prepare an untrained network before weights are copied into it."""
        trainer: Any = self
        # A class of the same name in the checkpoint hands over its row of the last layer.
        network.names = trainer.data["names"]

    def _setup_train(self) -> None:
        super()._setup_train()  # type: ignore[misc]
        if self.job.bfloat16:
            trainer: Any = self
            trainer.model = InBfloat16(trainer.model)

    def _model_train(self) -> None:
        """Begin an epoch's training; with trained embeddings all batch norms stay frozen.

        Ultralytics freezes the batch norms of frozen layers, but knows the contrastive head only
        as a whole, whose scale and bias may be trained.
        """
        super()._model_train()  # type: ignore[misc]
        if self.job.train_embeddings:
            trainer: Any = self
            for module in trainer.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def save_model(self) -> bool:
        """Write Ultralytics' checkpoints, and beside them the state for an exact resume."""
        saved: bool = super().save_model()  # type: ignore[misc]
        save_state(self)
        return saved

    def build_optimizer(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Build Ultralytics' optimizer with `head_lr_mult` for the untrained layers."""
        optimizer = super().build_optimizer(model, *args, **kwargs)  # type: ignore[misc]
        factor = self.job.head_lr_mult
        if factor == 1:
            return optimizer
        fresh = {id(p) for p in networks.untrained_parameters(unwrap_model(model))}
        for group in list(optimizer.param_groups):
            moved = [p for p in group["params"] if id(p) in fresh]
            if moved:
                group["params"] = [p for p in group["params"] if id(p) not in fresh]
                rest = {key: value for key, value in group.items() if key != "params"}
                optimizer.add_param_group({**rest, "params": moved, "lr": group["lr"] * factor})
        return optimizer


class YoloTrainer(_Trainer, DetectionTrainer):  # type: ignore[misc]
    """Trains a plain detector."""


class YoloWorldTrainer(_Trainer, WorldTrainer):  # type: ignore[misc]
    """Trains a detector whose classes come from text; its class embeddings can be trained, too.

    They are then a parameter of the network, so Ultralytics' optimizer, averaging, checkpoints and
    resuming include them (Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022).
    """

    def prepare_network(self, network: Any) -> None:
        """Set the head's initial bias, and add the class embeddings where they are trained."""
        networks.start_contrastive_head(network)
        if self.job.train_embeddings and self.job.embeddings is not None:
            names = list(self.data["names"].values())
            add_embeddings(network, load_text_embeddings(Path(self.job.embeddings)), names)
            self.add_callback("on_train_epoch_end", lambda trainer: use_embeddings(trainer.ema.ema))
        if on_pretrain_routine_end not in self.callbacks["on_pretrain_routine_end"]:
            self.add_callback("on_pretrain_routine_end", on_pretrain_routine_end)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the embeddings to a batch; trained ones stay attached to their parameter."""
        batch = super().preprocess_batch(batch)
        if self.job.train_embeddings:
            batch["txt_feats"] = embeddings_for_texts(
                unwrap_model(self.model), batch["texts"], list(self.data["names"].values())
            )
        return batch


def add_embeddings(network: Any, embeddings: TextEmbeddings, names: Sequence[str]) -> None:
    """Register the embeddings of the classes `names`, in this order, as parameter `prompts`."""
    vectors = torch.from_numpy(embeddings.of(names).copy())
    network.register_parameter("prompts", nn.Parameter(vectors))


def use_embeddings(network: Any) -> None:
    """Let a network predict with the present values of its parameter `prompts`."""
    network.txt_feats = network.prompts.detach().clone()[None]


def embeddings_for_texts(network: Any, texts: Sequence[Sequence[str]], names: Sequence[str]) -> Any:
    """Return the embeddings of a batch, still attached to the parameter `prompts`.

    Args:
        network: from `add_embeddings`.
        texts: class names per image, equally many for each.
        names: class names in the order of the parameter's rows.

    Returns:
        Tensor (B, n, 512).
    """
    row = {name: i for i, name in enumerate(names)}
    index = torch.tensor([[row[text] for text in one] for one in texts])
    return network.prompts[index]


class InBfloat16(nn.Module):
    """Computes a network's forward pass in bfloat16; losses and weights stay in float32.

    The loss gets float32: with 8 bits of mantissa a box edge would move in steps of a quarter of a
    cell. The network is `module`, as in `DistributedDataParallel`, which Ultralytics unwraps.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Any]) -> Any:
        """Return the loss of a batch, as the network itself does."""
        network: Any = self.module
        texts = {"txt_feats": batch["txt_feats"]} if "txt_feats" in batch else {}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predictions = network.predict(batch["img"], **texts)
        return network.loss(batch, _in_float32(predictions))


def _in_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _in_float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_in_float32(item) for item in value)
    return value


def use_bfloat16(precision: str, *, device: str) -> bool:
    """Return whether to train in bfloat16.

    Args:
        precision: the setting: `auto`, `float32` or `bfloat16`.
        device: as torch names it.

    Raises:
        ConfigError: `bfloat16` on another device than a CPU.
    """
    if precision == "bfloat16" and device != "cpu":
        raise ConfigError(
            f"precision=bfloat16: is for CPUs, not {device}; on a GPU use --set amp=true"
        )
    native = device == "cpu" and computes_bfloat16(torch.device("cpu"))
    return precision == "bfloat16" or (precision == "auto" and native)
