"""The scorer of patches, from patch scores to an image's, and the deviation loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def make_scorer(channels: int, hidden: int) -> nn.Module:
    """Return a network from patch features (…, channels) to scores (…, 1)."""
    from torch import nn

    if not hidden:
        return nn.Linear(channels, 1)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def image_scores(patches: Tensor, top: float) -> Tensor:
    """Return the mean of the highest share of patch scores (top-k multiple-instance learning).

    Args:
        patches: float tensor (n, cells).
        top: share of the cells, of which at least one counts.

    Returns:
        float tensor (n,).
    """
    count = max(1, round(top * int(patches.shape[1])))
    return patches.topk(count, dim=1).values.mean(dim=1)


def deviation_loss(scores: Tensor, is_defect: Tensor, margin: float) -> Tensor:
    """Return the deviation loss of Pang et al. (KDD 2019, equations 6 and 7).

    The paper draws 5,000 reference scores from the standard normal prior and standardises by their
    mean and deviation; here these are 0 and 1, to which the drawn ones tend.

    Args:
        scores: float tensor (n,).
        is_defect: bool tensor (n,).
        margin: by how many deviations a defect has to exceed the prior's mean.
    """
    good = scores.abs()
    odd = (margin - scores).clamp_min(0)
    return (good * ~is_defect + odd * is_defect).mean()
