"""Features of frozen layers: computed once, for several views of each image, kept on disk.

A cached file belongs to one network with its tensors, one image content, size and view. A file
that was cut short is made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from toolkit.files import atomic_write
from toolkit.home import cache_dir
from toolkit.progress import progress
from toolkit.weights.checkpoint import tensors_sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.methods.resnet.network import Classifier

_BATCH = 16
# Part of the path: change it when anything changes between image and feature.
_RECIPE = "pooled-1"


@dataclass(frozen=True)
class Part:
    """Images of one part of the split.

    Attributes:
        images: uint8 (n, 3, S, S), RGB.
        labels: int64 (n,), class indices.
        keys: what each image is known by in the cache, such as a hash of its content; empty where
            nothing is to be kept.
    """

    images: Tensor
    labels: Tensor
    keys: tuple[str, ...] = ()


def normalised(images: Tensor, model: Classifier, device: str) -> Tensor:
    """Normalise float32 (B, 3, S, S) in [0, 1] as the backbone wants it, on the device."""
    mean = torch.tensor(model.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(model.std, device=device).view(1, 3, 1, 1)
    normal: Tensor = (images.to(device) - mean) / std
    return normal


def viewed(images: Tensor, view: int) -> Tensor:
    """Return square images (B, C, S, S) turned by quarter turns (0-3), and mirrored (4-7)."""
    # Not torch.rot90, which ONNX has no operator for.
    turns = view % 4
    turned = images.transpose(2, 3) if turns % 2 else images
    flipped = {0: [], 1: [2], 2: [2, 3], 3: [3]}[turns]
    if view >= 4:
        flipped = sorted({*flipped} ^ {3})
    return turned.flip(flipped) if flipped else turned


def averaged_logits(model: Classifier, images: Tensor, views: int, device: str) -> Tensor:
    """Return logits (B, K) of uint8 images (B, 3, S, S), averaged over their views."""
    total = [
        model(normalised(viewed(images, view).float() / 255, model, device))
        for view in range(views)
    ]
    return torch.stack(total).mean(0)


def frozen_features(
    model: Classifier, part: Part, *, views: int, device: str, name: str = "", title: str
) -> Tensor:
    """Compute what the backbone makes of every view of every image.

    Args:
        model: put into evaluation mode.
        part: the images.
        views: number of views.
        device: torch device.
        name: of the network, for the cache; nothing is read or kept if empty, as for a backbone
            that this run has trained.
        title: of the progress bar.

    Returns:
        float32 (views, n, F), on the device.
    """
    model.eval()
    folder = _folder(model, name, part.images.shape[-1]) if name and part.keys else None
    found: list[list[Tensor | None]] = [
        [_read(_path(folder, key, view)) for key in part.keys]
        if folder
        else [None] * len(part.images)
        for view in range(views)
    ]
    with torch.inference_mode(), progress(title, views * len(part.images)) as bar:
        for view, features in enumerate(found):
            missing = [i for i, one in enumerate(features) if one is None]
            bar.advance(len(features) - len(missing))
            for start in range(0, len(missing), _BATCH):
                chosen = missing[start : start + _BATCH]
                images = viewed(part.images[chosen], view).float() / 255
                fresh = model.backbone(normalised(images, model, device)).float().cpu()
                for i, one in zip(chosen, fresh, strict=True):
                    features[i] = one
                    if folder:
                        _write(_path(folder, part.keys[i], view), one.numpy())
                bar.advance(len(chosen))
    whole = [torch.stack([one for one in row if one is not None]) for row in found]
    return torch.stack(whole).clone().to(device)


def _folder(model: Classifier, name: str, size: int) -> Path:
    layers = "-".join(getattr(model.backbone, "layers", ("pooled",)))
    fingerprint = tensors_sha256(model.backbone.state_dict())[:12]
    return cache_dir() / "features" / _RECIPE / f"{name}-{fingerprint}" / layers / str(size)


def _path(folder: Path, key: str, view: int) -> Path:
    return folder / f"{key}-{view}.npy"


def _read(path: Path) -> Tensor | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.ndim != 1:
        return None
    return torch.from_numpy(found)


def _write(path: Path, feature: NDArray[np.float32]) -> None:
    with atomic_write(path) as temporary:
        np.save(temporary, feature)
