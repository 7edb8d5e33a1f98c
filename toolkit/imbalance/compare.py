"""What DeepSMOTE does to a small classifier, measured: the same images with and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.imbalance.deepsmote import (
    PENALTIES,
    DeepSmote,
    missing_images,
    synthesise,
    to_unit,
    train_deepsmote,
)
from toolkit.metrics.classification import classification_metrics
from toolkit.metrics.values import Undefined

WITHOUT = "without"
_STEPS = 600
_BATCH = 32
_LR = 1e-3
_CODING_BATCH = 256


@dataclass(frozen=True)
class Figures:
    """How good a classifier is on a test part.

    Attributes:
        acsa: mean recall of the classes (average class-specific accuracy).
        geometric_mean: of the recalls.
        macro_f1: mean F1 of the classes.
    """

    acsa: float
    geometric_mean: float
    macro_f1: float


def small_network(channels: int, size: int, classes: int) -> nn.Module:
    """Return a network of three convolutions, as small images want it."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(min(2, size // 4)), nn.Flatten(), nn.LazyLinear(classes),
    )  # fmt: skip


def train_small(images: Tensor, labels: Tensor, classes: int, *, seed: int) -> nn.Module:
    """Train a small network for a fixed number of steps, whatever the number of images.

    Args:
        images: uint8 (n, C, S, S).
        labels: int64 (n,).
        classes: number of classes.
        seed: of all random numbers.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = small_network(images.shape[1], images.shape[-1], classes)
    inputs = to_unit(images)
    model(inputs[:2])  # lets the last layer find its size
    optimizer = torch.optim.Adam(model.parameters(), lr=_LR)
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _LR * (1 - step / _STEPS)
        chosen = torch.randint(len(inputs), (_BATCH,), generator=generator)
        loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    return model.eval()


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class that a network says of each uint8 image, int64 (n,)."""
    with torch.no_grad():
        batches = torch.split(to_unit(images), _CODING_BATCH)
        return torch.cat([model(batch).argmax(1) for batch in batches])


def compare(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    names: Sequence[str],
    how: DeepSmote,
    *,
    seed: int,
) -> dict[str, Figures]:
    """Train without DeepSMOTE and with each of its penalties, and test on the same images.

    Args:
        train: images uint8 (n, C, S, S) and labels int64 (n,).
        test: of the same form.
        names: of the classes.
        how: the training of encoder and decoder; its penalty is replaced by each in turn.
        seed: of all random numbers.

    Returns:
        By `without`, and by the name of the penalty.
    """
    images, labels = train
    found = {WITHOUT: _figures(train, test, names, seed)}
    for penalty in PENALTIES:
        trained = train_deepsmote(images, labels, replace(how, penalty=penalty), seed=seed)
        missing = missing_images(labels, len(names))
        made, of = synthesise(
            trained, images, labels, missing, neighbours=how.neighbours, seed=seed
        )
        filled = (torch.cat([images, made]), torch.cat([labels, of]))
        found[penalty] = _figures(filled, test, names, seed)
    return found


def table(by_seed: Sequence[Mapping[str, Figures]]) -> str:
    """Write the mean and the standard deviation over seeds, one line per way of training."""
    lines = [f"{'DeepSMOTE':<16}{'ACSA':>16}{'G-mean':>16}{'macro F1':>16}"]
    for name in by_seed[0]:
        cells = [f"{name:<16}"]
        for key in ("acsa", "geometric_mean", "macro_f1"):
            values = [getattr(figures[name], key) for figures in by_seed]
            spread = stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{mean(values):>9.3f} ±{spread:.3f}")
        lines.append("".join(f"{cell:>16}" if i else cell for i, cell in enumerate(cells)))
    if len(by_seed) > 1:
        for name in list(by_seed[0])[1:]:
            gains = [figures[name].acsa - figures[WITHOUT].acsa for figures in by_seed]
            better = sum(gain > 0 for gain in gains)
            lines.append(
                f"{name}: ACSA {mean(gains):+.3f} against {WITHOUT} (standard deviation of the "
                f"difference {stdev(gains):.3f}), better in {better} of {len(gains)} seeds"
            )
    return "\n".join(lines)


def _figures(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], names: Sequence[str], seed: int
) -> Figures:
    model = train_small(*train, len(names), seed=seed)
    said = answers(model, test[0])
    found = classification_metrics(test[1].numpy(), said.numpy(), class_names=names)
    values = (found.balanced_accuracy, found.geometric_mean, found.macro_f1)
    # The test part holds images of some class, so all three exist.
    known = [value for value in values if not isinstance(value, Undefined)]
    return Figures(*known)
