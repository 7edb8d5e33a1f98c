"""Grad-CAM: which places of an image speak for a class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from toolkit.methods.resnet.frozen import normalised

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolkit.methods.resnet.network import Classifier


def last_map(model: Classifier, images: Tensor) -> nn.Module:
    """Return the module whose output is the last map (B, C, h, w) with more than one place.

    Args:
        model: the classifier.
        images: float32 (1, 3, S, S), normalised.
    """
    found: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        is_map = isinstance(output, Tensor) and output.dim() == 4
        if is_map and output.shape[2] * output.shape[3] > 1:  # type: ignore[attr-defined]
            found.append(module)

    # Only modules without children: a container's output is that of its last child.
    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1]


def grad_cam(model: Classifier, image: Tensor, label: int, device: str) -> NDArray[np.float32]:
    """Return how much each place of the last map speaks for a class.

    Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2: maps weighted by the mean gradient of
    the class's logit, summed, and cut off below 0.

    Args:
        model: in evaluation mode.
        image: uint8 (1, 3, S, S).
        label: index of the class.
        device: torch device.

    Returns:
        float32 (h, w), from 0 to 1; all 0 where nothing speaks for the class.
    """
    inputs = normalised(image.float() / 255, model, device).requires_grad_()
    module = last_map(model, inputs.detach())
    kept: list[Tensor] = []
    hook = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    try:
        logit = model(inputs)[0, label]
    finally:
        hook.remove()
    maps = kept[-1]
    (gradient,) = torch.autograd.grad(logit, maps)
    cam = (gradient.mean((2, 3), keepdim=True) * maps).sum(1)[0].clamp_min(0).detach()
    scaled: NDArray[np.float32] = (cam / cam.max().clamp_min(1e-12)).float().cpu().numpy()
    return scaled
