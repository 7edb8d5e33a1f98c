"""Prompt tuning: the class embeddings learn, the network stays as it is.

They are a parameter of the network, so Ultralytics' optimiser, averaging, checkpoints and resuming
take them along. What was tuned is a bank again, which serves the untouched network it was tuned on
(Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022; Cheng et al.,
"YOLO-World", CVPR 2024, whose authors offer it under this name).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from toolkit.methods.yolo.prompts import PromptBank

Train = Literal["full", "head", "prompts"]

_PARAMETER = "prompts"


def frozen_parts(layers: Mapping[str, Any], *, train: Train, tune_scale: bool) -> list[int | str]:
    """Return what Ultralytics' argument `freeze` has to say.

    Args:
        layers: the network, from `model_yaml`.
        train: `head` leaves the last layer to learn, `prompts` nothing but the embeddings.
        tune_scale: with `prompts`, whether the contrastive head's scale and bias learn too.

    Returns:
        Layer numbers, and parts of the last layer; empty for `full`.
    """
    if train == "full":
        return []
    last = len(layers["backbone"]) + len(layers["head"]) - 1
    if train == "head":
        return list(range(last))
    if not tune_scale:
        return list(range(last + 1))
    norms = [f"{last}.cv4.{level}.norm" for level in range(len(layers["head"][-1][0]))]
    return [*range(last), f"{last}.cv2", f"{last}.cv3", *norms]


def add_prompts(network: Any, bank: PromptBank, names: Sequence[str]) -> None:
    """Make the embeddings of the classes a parameter of the network, in the order of `names`."""
    import torch

    vectors = torch.from_numpy(bank.of(names).copy())
    network.register_parameter(_PARAMETER, torch.nn.Parameter(vectors))


def prompts_for_texts(network: Any, texts: Sequence[Sequence[str]], names: Sequence[str]) -> Any:
    """Return the embeddings that a batch asks for, still attached to the parameter.

    Args:
        network: from `add_prompts`.
        texts: class names per image, equally many for each.
        names: class names in the order of the parameter's rows.

    Returns:
        Tensor (B, n, 512).
    """
    import torch

    row = {name: i for i, name in enumerate(names)}
    index = torch.tensor([[row[text] for text in one] for one in texts])
    return getattr(network, _PARAMETER)[index]


def answer_from_prompts(network: Any) -> None:
    """Let a network predict with what its embeddings have become."""
    network.txt_feats = getattr(network, _PARAMETER).detach().clone()[None]


def keep_statistics(network: Any) -> None:
    """Let no batch norm of a network follow the batches; training mode sets them free again."""
    from torch.nn import BatchNorm2d

    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.eval()


def tuned_bank(network: Any, names: Sequence[str], *, source: str) -> PromptBank:
    """Return the embeddings that a network has learned.

    Args:
        network: read from a checkpoint of a prompt tuning.
        names: class names in the order of the rows.
        source: where they come from.
    """
    vectors = getattr(network, _PARAMETER).detach().float().cpu().numpy()
    return PromptBank(tuple(names), vectors, source)
