"""A trained detector as ONNX, compared with itself on real images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.files import write_text
from toolkit.methods.base import Exported
from toolkit.methods.onnx_graph import write_graph
from toolkit.methods.yolo.detect import stride_of
from toolkit.methods.yolo.training_data import shrunk
from toolkit.methods.yolo.views import PLAIN, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INPUT, _OUTPUT = "images", "candidates"
_TOLERANCE = 1e-3
"""Of scores, and of box edges as shares of the input's side (a third of a pixel of 320)."""


def export_onnx(
    detector: Any,
    out: Path,
    samples: Sequence[Sample],
    *,
    image_size: int,
    views: Sequence[View] = (PLAIN,),
    background: str = "",
) -> Exported:
    """Write `model.onnx` and `model.json`, which says what goes in and comes out.

    Input `images`: float32 (1, 3, side, side), RGB from 0 to 1, resized by area to the longest
    side and padded with 114/255 around. Output `candidates`: float32 (1, 4 + classes, n), box
    centre and size in pixels of the input, then a score per class; non-maximum suppression is left
    to the reader. Prompts are constants inside. The graph looks at one view; a run that fuses
    several scores otherwise, so its threshold does not fit.

    Args:
        detector: from `load_detector`, on the CPU, with its vocabulary.
        out: the folder.
        samples: images on which both are compared.
        image_size: longest side that images are resized to.
        views: in which the run shows an image to the network.
        background: name of the class that stands for no defect; empty if there is none.

    Raises:
        MissingExtraError: ONNX is not installed.
        DataError: an image cannot be read.
    """
    import torch

    stride = stride_of(detector)
    side = -(-image_size // stride) * stride
    inputs = [_input(read_rgb(s.image), image_size=image_size, side=side) for s in samples]
    with torch.inference_mode():
        expected = [_raw(detector(torch.from_numpy(one))) for one in inputs]

    head = detector.model[-1]
    head.export, head.format = True, "onnx"
    try:
        session = write_graph(
            detector, {_INPUT: torch.zeros(1, 3, side, side)}, [_OUTPUT], out / "model.onnx"
        )
    finally:
        head.export = False
    about: dict[str, Any] = {
        "classes": list(detector.names.values()),
        "input": {"name": _INPUT, "shape": [1, 3, side, side], "longest_side": image_size},
        "output": {"name": _OUTPUT, "rows": ["cx", "cy", "w", "h", "one score per class"]},
        "views": {
            "exported": 1,
            "run": [{"turns": view.turns, "mirrored": view.mirrored} for view in views],
            "meaning": "quarter turns anticlockwise, then left and right exchanged; a run with "
            "several views joins their boxes by weighted box fusion",
        },
        "background": background or None,
    }
    if background:
        about["background_meaning"] = (
            "no defect: the run drops every candidate that scores highest in this class"
        )
    write_text(out / "model.json", json.dumps(about, indent=2, ensure_ascii=False) + "\n")

    scale = np.array([side] * 4 + [1] * len(detector.names), np.float32)[None, :, None]
    difference = 0.0
    for one, true in zip(inputs, expected, strict=True):
        (said,) = session.run([_OUTPUT], {_INPUT: one})
        difference = max(difference, float(np.abs((said - true) / scale).max()))
    return Exported(
        files=("model.onnx", "model.json"),
        max_difference=difference,
        tolerance=_TOLERANCE,
        checked=f"all candidates of {len(samples)} images",
        no_threshold=""
        if len(views) == 1
        else f"the run's was chosen on scores fused over {len(views)} views, and this gives one; "
        "choose it on scores of this, or make the run with --views one",
    )


def _input(image: NDArray[np.uint8], *, image_size: int, side: int) -> NDArray[np.float32]:
    from ultralytics.data.augment import LetterBox

    square = LetterBox((side, side), auto=False)(image=shrunk(image, longest=image_size))
    pixels: NDArray[np.float32] = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32)
    return pixels / np.float32(255)


def _raw(answer: Any) -> NDArray[np.float32]:
    raw: NDArray[np.float32] = (answer[0] if isinstance(answer, tuple) else answer).numpy()
    return raw
