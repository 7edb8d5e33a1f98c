"""SMOTE: new examples on the lines between neighbours of one class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toolkit.errors import ConfigError
from toolkit.imbalance.weights import class_counts


def check_neighbours(
    counts: Tensor,
    names: tuple[str, ...],
    neighbours: int,
    *,
    wanted: Mapping[int, int] | None = None,
    option: str = "smote_neighbours",
) -> None:
    """See to it that every class that is filled up has as many neighbours as are asked for.

    Args:
        counts: int64 (K,), images per class.
        names: of the classes.
        neighbours: k of SMOTE.
        wanted: number of new images by class; if not given, those smaller than the largest.
        option: what the number is called where the user gives it.

    Raises:
        ConfigError: a class has no more than k images.
    """
    if neighbours < 1:
        raise ConfigError(f"{option}={neighbours}: must be at least 1")
    largest = int(counts.max())
    for index, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        filled = wanted.get(index, 0) > 0 if wanted is not None else count < largest
        if neighbours >= count and filled:
            raise ConfigError(
                f"{option}={neighbours}: class {name} has {count} training images, so each "
                f"has {count - 1} neighbours; choose at most {count - 1}"
            )


def smote(points: Tensor, count: int, *, neighbours: int, generator: torch.Generator) -> Tensor:
    """Make new points between the points of one class.

    Chawla et al., SMOTE: Synthetic Minority Over-sampling Technique, JAIR 16, 2002: a point, one of
    its k nearest neighbours of the same class, and a place on the line between them that is uniform
    in [0, 1). Every point is taken in turn before any is taken again, as in the paper, where the
    number of new points is a multiple; those of the last turn are drawn.

    Args:
        points: float (n, F) of one class, n > neighbours.
        count: number of new points.
        neighbours: k.
        generator: of the CPU.

    Returns:
        float (count, F).
    """
    n = len(points)
    distances = torch.cdist(points.double(), points.double())
    distances.fill_diagonal_(torch.inf)
    near = distances.topk(neighbours, dim=1, largest=False).indices.cpu()
    turns = -(-count // n)
    first = torch.cat(
        [torch.randperm(n, generator=generator) for _ in range(turns)]
        or [torch.empty(0, dtype=torch.int64)]
    )[:count]
    which = torch.randint(neighbours, (count,), generator=generator)
    second = near[first, which]
    gap = torch.rand(count, 1, generator=generator).to(points)
    start = points[first.to(points.device)]
    return start + gap * (points[second.to(points.device)] - start)


def balanced_by_smote(
    points: Tensor, labels: Tensor, classes: int, *, neighbours: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Fill every class up to the size of the largest.

    Args:
        points: float (n, F).
        labels: int64 (n,); every class occurs, see `check_neighbours`.
        classes: number of classes.
        neighbours: k.
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
            all_points.append(smote(own, missing, neighbours=neighbours, generator=generator))
            all_labels.append(torch.full((missing,), index, dtype=labels.dtype))
    return torch.cat(all_points), torch.cat(all_labels)
