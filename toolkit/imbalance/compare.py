"""Measure what DeepSMOTE does to a small classifier, on any images or on long-tailed digits."""

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
    synthesize,
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
DIGITS_SIDE = 16
"""Side in pixels that the digits, 8 x 8, are enlarged to."""
DIGITS = tuple(str(digit) for digit in range(10))
_GRAY_LEVELS = 16


@dataclass(frozen=True)
class Figures:
    """Figures of a classifier on a test part.

    Attributes:
        acsa: mean recall of the classes (average class-specific accuracy).
        geometric_mean: of the recalls.
        macro_f1: mean F1 of the classes.
    """

    acsa: float
    geometric_mean: float
    macro_f1: float


def small_network(channels: int, size: int, classes: int) -> nn.Module:
    """Return a network of three convolutions, for small images."""
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
    model(inputs[:2])  # sets the size of the last layer
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


def predict_small(model: nn.Module, images: Tensor) -> Tensor:
    """Return the predicted class of each uint8 image, int64 (n,)."""
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
        made, of = synthesize(trained, images, labels, missing, seed=seed)
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
    predicted = predict_small(model, test[0])
    found = classification_metrics(test[1].numpy(), predicted.numpy(), class_names=names)
    values = (found.balanced_accuracy, found.geometric_mean, found.macro_f1)
    # The test part holds images of some class, so all three exist.
    known = [value for value in values if not isinstance(value, Undefined)]
    return Figures(*known)


def load_digits() -> tuple[Tensor, Tensor]:
    """Return all 1797 digits: uint8 (n, 1, 16, 16) and int64 (n,)."""
    from sklearn import datasets

    found = datasets.load_digits()
    images = torch.from_numpy(found.images).float()[:, None] * (255 / _GRAY_LEVELS)
    grown = F.interpolate(images, size=(DIGITS_SIDE, DIGITS_SIDE), mode="bilinear")
    return grown.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(found.target).long()


def long_tail_counts(largest: int, smallest: int, classes: int) -> list[int]:
    """Return class sizes that fall exponentially.

    n_c = n_0 · (n_last / n_0)^(c / (K − 1)), as the long-tailed sets of Cui et al. 2019.
    """
    ratio = smallest / largest
    return [round(largest * ratio ** (c / (classes - 1))) for c in range(classes)]


def split_long_tail(
    labels: Tensor, counts: list[int], *, test_per_class: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw a long-tailed training part and a balanced test part that do not overlap.

    Args:
        labels: int64 (n,).
        counts: training images per class.
        test_per_class: test images per class.
        seed: of the draw.

    Returns:
        int64 indices of the training and the test part.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label, count in enumerate(counts):
        own = torch.nonzero(labels == label).flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        test.append(own[:test_per_class])
        train.append(own[test_per_class : test_per_class + count])
    return torch.cat(train), torch.cat(test)
