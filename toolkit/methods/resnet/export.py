"""A trained classifier as ONNX, compared with itself on real images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data.images import read_rgb
from toolkit.files import write_text
from toolkit.methods.base import Exported
from toolkit.methods.onnx_graph import write_graph
from toolkit.methods.resnet.frozen import averaged_logits, viewed
from toolkit.methods.resnet.image_cache import resized

if TYPE_CHECKING:
    from toolkit.data.types import Sample
    from toolkit.methods.resnet.checkpoint import ModelCard
    from toolkit.methods.resnet.network import Classifier

_INPUT, _OUTPUT = "images", "logits"
_TOLERANCE = 1e-3
"""Of logits; they are of the order of 1 to 10."""


class _InUse(nn.Module):
    """The classifier as `predict` uses it: normalises, and averages over views."""

    def __init__(self, model: Classifier, views: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.model, self.views = model, views
        self.register_buffer("mean", torch.tensor(model.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(model.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        normal = (images - self.mean) / self.std
        logits = [self.model(viewed(normal, view)) for view in range(self.views)]
        return torch.stack(logits).mean(0)


def export_onnx(
    model: Classifier, card: ModelCard, out: Path, samples: Sequence[Sample]
) -> Exported:
    """Write `model.onnx` and `model.json`, which says what goes in and comes out.

    Input `images`: float32 (1, 3, side, side), RGB from 0 to 1, resized by area to the square, not
    normalised. Output `logits`: float32 (1, classes), `good` first; the anomaly score is the
    logsumexp of the others minus that of good.

    Args:
        model: in evaluation mode, on the CPU.
        card: what belongs to it.
        out: the folder.
        samples: images on which both are compared.

    Raises:
        MissingExtraError: ONNX is not installed.
        DataError: an image cannot be read.
    """
    side = card.image_size
    session = write_graph(
        _InUse(model, card.views).eval(),
        {_INPUT: torch.zeros(1, 3, side, side)},
        [_OUTPUT],
        out / "model.onnx",
    )
    about = {
        "classes": list(card.classes),
        "input": {"name": _INPUT, "shape": [1, 3, side, side], "range": [0, 1], "order": "RGB"},
        "output": {"name": _OUTPUT, "score": "logsumexp(logits[1:]) - logits[0]"},
    }
    write_text(out / "model.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    difference = 0.0
    for sample in samples:
        image = torch.from_numpy(resized(read_rgb(sample.image), side)).permute(2, 0, 1)[None]
        with torch.no_grad():
            true = averaged_logits(model, image, card.views, "cpu").numpy()
        (said,) = session.run([_OUTPUT], {_INPUT: (image.float() / 255).numpy()})
        difference = max(difference, float(np.abs(said - true).max()))
    return Exported(
        files=("model.onnx", "model.json"),
        max_difference=difference,
        tolerance=_TOLERANCE,
        checked=f"logits of {len(samples)} images",
    )
