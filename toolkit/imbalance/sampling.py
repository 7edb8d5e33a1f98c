"""The order of an epoch's images, and SMOTE: new examples between neighbors of one class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toolkit.errors import ConfigError
from toolkit.imbalance.losses import class_counts, inverse_frequency_weights


def shuffled_order(labels: Tensor, generator: torch.Generator, *, count: int = 0) -> Tensor:
    """Return the indices of an epoch in which no image comes twice.

    Args:
        labels: int64 (n,).
        generator: of the CPU.
        count: how many images, at most n; 0 takes n.

    Returns:
        int64 (count,): the start of a permutation.
    """
    return torch.randperm(len(labels), generator=generator)[: count or len(labels)]


def balanced_order(
    labels: Tensor, classes: int, generator: torch.Generator, *, count: int = 0
) -> Tensor:
    """Draw the indices of an epoch with replacement, every class equally often on average.

    Class-balanced sampling in the words of Kang et al., Decoupling Representation and Classifier
    for Long-Tailed Recognition, ICLR 2020, equation 1 with q = 0.

    Args:
        labels: int64 (n,); every class occurs.
        classes: number of classes.
        generator: of the CPU.
        count: how many images; 0 takes n.

    Returns:
        int64 (count,).
    """
    weights = inverse_frequency_weights(class_counts(labels, classes))[labels]
    return torch.multinomial(weights, count or len(labels), replacement=True, generator=generator)


def check_neighbors(
    counts: Tensor,
    names: tuple[str, ...],
    num_neighbors: int,
    *,
    wanted: Mapping[int, int] | None = None,
    option: str = "smote_num_neighbors",
) -> None:
    """Check that every class that is filled up has more images than neighbors.

    Args:
        counts: int64 (K,), images per class.
        names: of the classes.
        num_neighbors: k of SMOTE.
        wanted: number of new images by class; if not given, those smaller than the largest.
        option: name of the number, for the message.

    Raises:
        ConfigError: a class has no more than k images.
    """
    if num_neighbors < 1:
        raise ConfigError(f"{option}={num_neighbors}: must be at least 1")
    largest = int(counts.max())
    for index, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        filled = wanted.get(index, 0) > 0 if wanted is not None else count < largest
        if num_neighbors >= count and filled:
            raise ConfigError(
                f"{option}={num_neighbors}: class {name} has {count} training images, so each "
                f"has {count - 1} neighbors; choose at most {count - 1}"
            )


def smote(points: Tensor, count: int, *, num_neighbors: int, generator: torch.Generator) -> Tensor:
    """Make new points between the points of one class.

    Chawla et al., SMOTE: Synthetic Minority Over-sampling Technique, JAIR 16, 2002: a point, one of
    its k nearest neighbors of the same class, and a place on the line between them, uniform in
    [0, 1). Every point is taken once before any is taken again, as in the paper.

    Args:
        points: float (n, F) of one class, n > num_neighbors.
        count: number of new points.
        num_neighbors: k.
        generator: of the CPU.

    Returns:
        float (count, F).
    """
    n = len(points)
    distances = torch.cdist(points.double(), points.double())
    distances.fill_diagonal_(torch.inf)
    near = distances.topk(num_neighbors, dim=1, largest=False).indices.cpu()
    turns = max(-(-count // n), 1)
    first = torch.cat([torch.randperm(n, generator=generator) for _ in range(turns)])[:count]
    which = torch.randint(num_neighbors, (count,), generator=generator)
    second = near[first, which]
    gap = torch.rand(count, 1, generator=generator).to(points)
    start = points[first.to(points.device)]
    return start + gap * (points[second.to(points.device)] - start)


def balanced_by_smote(
    points: Tensor, labels: Tensor, classes: int, *, num_neighbors: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Fill every class up to the size of the largest.

    Args:
        points: float (n, F).
        labels: int64 (n,); every class occurs, see `check_neighbors`.
        classes: number of classes.
        num_neighbors: k.
        generator: of the CPU.

    Returns:
        All points, the given ones first, and their labels.
    """
    counts = class_counts(labels, classes).tolist()
    all_points, all_labels = [points], [labels]
    for index, count in enumerate(counts):
        missing = max(counts) - count
        if missing:
            own = points[(labels == index).to(points.device)]
            all_points.append(smote(own, missing, num_neighbors=num_neighbors, generator=generator))
            all_labels.append(torch.full((missing,), index, dtype=labels.dtype))
    return torch.cat(all_points), torch.cat(all_labels)
