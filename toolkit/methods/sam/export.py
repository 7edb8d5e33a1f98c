"""A fine-tuned SAM for other programs: checkpoints, whole and of the decoder, and Meta's ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toolkit.data.images import read_rgb, read_truth
from toolkit.data.regions import regions_of, union_box
from toolkit.data.types import Sample
from toolkit.files import atomic_write
from toolkit.methods.base import Exported
from toolkit.methods.onnx_graph import write_graph
from toolkit.methods.sam.batched_decoder import LOGIT_LIMIT, LOW_RES_SIZE, decode
from toolkit.methods.sam.encoder import Encoder
from toolkit.methods.sam.model import save_decoder
from toolkit.methods.sam.prompts import with_click
from toolkit.runtime.prompts import PADDING, Prompt, box_prompt, click_prompt
from toolkit.runtime.segmentation import scale_to_input

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_TOLERANCE = 1e-3
"""Of mask logits, which reach from about -40 to 40, and of predicted IoUs."""
_WHOLE = {
    "mobile-sam": "mobile_sam.pt", "sam-vit-b": "sam_b.pt", "sam-vit-l": "sam_l.pt",
    "sam-vit-h": "sam_h.pt",
}  # fmt: skip
"""Ultralytics recognises the architecture by the end of the file's name."""
_DECODER, _ONNX = "decoder.safetensors", "decoder.onnx"


def save_whole(sam: Sam, path: Path) -> None:
    """Write all tensors under SAM's own names, as Meta's, MobileSAM's and Ultralytics' loaders do.

    Args:
        sam: the model.
        path: for Ultralytics its name has to end as the official file's does.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in sam.state_dict().items()}
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def export_sam(sam: Sam, model: str, out: Path, samples: Sequence[Sample]) -> Exported:
    """Write both checkpoints and the ONNX decoder; compare the latter with the model.

    The decoder has the inputs and outputs of Meta's `export_onnx_model.py`: `image_embeddings`,
    `point_coords`, `point_labels`, `mask_input`, `has_mask_input`, `orig_im_size`; `masks`,
    `iou_predictions`, `low_res_masks`. All four masks are returned; the first is the one that runs
    of this project use.

    Args:
        sam: the fine-tuned model, on the CPU.
        model: its name in the settings.
        out: the folder.
        samples: real images; each is prompted by a box, by a click, and by both with a mask fed
            back.

    Raises:
        MissingExtraError: ONNX is not installed.
    """
    save_whole(sam, out / _WHOLE[model])
    save_decoder(sam, out / _DECODER)
    session = _write_onnx(sam, out / _ONNX)
    largest = max(_difference(sam, session, sample) for sample in samples)
    return Exported(
        files=(_ONNX, _WHOLE[model], _DECODER),
        max_difference=largest,
        tolerance=_TOLERANCE,
        checked=f"mask logits and predicted IoUs of 3 prompts each on {len(samples)} images",
    )


def _write_onnx(sam: Sam, path: Path) -> Any:
    from segment_anything.utils.onnx import SamOnnxModel

    network = SamOnnxModel(sam, return_single_mask=False)
    example = _inputs(
        torch.zeros(1, 256, 64, 64), with_click(click_prompt(1, 1), 2, 2, positive=False),
        scale=1.0, mask=None, size_wh=(1500, 2250),
    )  # fmt: skip
    return write_graph(
        network,
        {name: torch.from_numpy(array) for name, array in example.items()},
        ["masks", "iou_predictions", "low_res_masks"],
        path,
        dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
    )


def _inputs(
    embedding: torch.Tensor,
    prompt: Prompt,
    *,
    scale: float,
    mask: NDArray[np.float32] | None,
    size_wh: tuple[int, int],
) -> dict[str, NDArray[Any]]:
    """Return Meta's inputs of one prompt, in their order; points in pixels of SAM's input."""
    coords, labels = prompt.coords * np.float32(scale), prompt.labels.astype(np.float32)
    return {
        "image_embeddings": embedding.cpu().numpy(),
        "point_coords": coords[None].astype(np.float32),
        "point_labels": labels[None],
        "mask_input": np.zeros((1, 1, LOW_RES_SIZE, LOW_RES_SIZE), np.float32)
        if mask is None
        else mask,
        "has_mask_input": np.array([mask is not None], np.float32),
        "orig_im_size": np.array([size_wh[1], size_wh[0]], np.float32),
    }


@torch.no_grad()
def _difference(sam: Sam, session: Any, sample: Sample) -> float:
    image = read_rgb(sample.image)
    size_wh = (image.shape[1], image.shape[0])
    scale = scale_to_input(size_wh)
    embedding = Encoder(sam)(image)[None].float()
    largest, previous = 0.0, None
    for prompt in _prompts(sample, size_wh):
        feedback = previous if PADDING not in prompt.labels and len(prompt.labels) > 2 else None
        decoded = decode(
            sam, embedding, [prompt], [scale],
            None if feedback is None else torch.from_numpy(feedback),
        )  # fmt: skip
        inputs = _inputs(embedding, prompt, scale=scale, mask=feedback, size_wh=size_wh)
        _, ious, logits = session.run(None, inputs)
        expected = decoded.low_res_logits()
        previous = expected[:, :1].clamp(-LOGIT_LIMIT, LOGIT_LIMIT).numpy()
        differences = (
            np.abs(logits - expected.numpy()).max(),
            np.abs(ious - decoded.iou_predictions().numpy()).max(),
        )
        largest = max(largest, *map(float, differences))
        if not np.isfinite(differences).all():
            return float("nan")
    return largest


def _prompts(sample: Sample, size_wh: tuple[int, int]) -> list[Prompt]:
    """Return a click, a box, and the box with a click; on the defect where there is one."""
    width, height = size_wh
    box = (width // 4, height // 4, width - width // 4, height - height // 4)
    if sample.is_defect:
        box = union_box([region.box_xyxy for region in regions_of(read_truth(sample))])
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    boxed = box_prompt(box)
    return [click_prompt(x, y), boxed, with_click(boxed, x, y, positive=True)]
