"""Rebuild MobileSAM's checkpoint from the two ONNX files of its package mirror.

The files contain every tensor of MobileSAM except the unused ImageNet head, in the form that
`torch.onnx.export` gives them: batch normalisation folded into convolutions, linear weights
transposed under generated names, attention biases expanded to one value per pair of positions,
tokens fused into one constant. Each is found by the name of the graph node that uses it. The result
is compared with the ONNX files on a fixed input.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import MissingExtraError, WeightsError
from toolkit.files import atomic_write, write_json
from toolkit.weights.checkpoint import checkpoint_sha256, tensors_sha256
from toolkit.weights.local import provenance_file
from toolkit.weights.mobile_sam_network import (
    EMBEDDING_SIZE,
    IMAGE_SIZE,
    build_mobile_sam,
    empty_mobile_sam,
)
from toolkit.weights.registry import Weights

if TYPE_CHECKING:
    from torch import Tensor

BATCH_NORM_EPS = 1e-5
ENCODER_LIMIT = 1e-4
DECODER_LIMIT = 1e-3
MASK_INPUT_SIZE = 4 * EMBEDDING_SIZE


def require_onnx() -> None:
    """Raise MissingExtraError unless onnx and onnxruntime are installed."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                package,
                extra="onnx" if package == "onnxruntime" else None,
                purpose="rebuild MobileSAM from its mirror",
            )


def rebuild(members: Sequence[Path], target: Path, entry: Weights) -> None:
    """Write `target`, a plain state dict with MobileSAM's names, and its provenance beside it.

    Args:
        members: the encoder's and the decoder's ONNX file.
        target: where the checkpoint belongs; `<target>.json` records hashes, sources and parity.
        entry: registry entry; its `tensors_sha256` is compared.

    Raises:
        MissingExtraError: onnx or onnxruntime is missing.
        WeightsError: a tensor is missing or has another shape, the tensors are not the pinned
            ones, or the network differs from the ONNX files.
    """
    require_onnx()
    import torch

    encoder_onnx, decoder_onnx = members
    state = mobile_sam_state_dict(encoder_onnx, decoder_onnx)
    found = tensors_sha256(state)
    if found != entry.tensors_sha256:
        raise WeightsError(f"rebuilt MobileSAM has other tensors than pinned ({found[:12]}…)")
    parity = check_parity(state, encoder_onnx, decoder_onnx)
    with atomic_write(target) as temporary:
        # To a stream, because torch writes the name of the file into it: with a random temporary
        # name, two processes that rebuild at once would write different files.
        with temporary.open("wb") as stream:
            torch.save(state, stream)
        record = {
            "name": entry.name,
            "file_sha256": checkpoint_sha256(temporary),
            "tensors_sha256": found,
            "sources": [
                {"client": m.client, "package": m.package, "member": m.member, "sha256": m.sha256}
                for m in entry.mirrors
            ],
            "max_abs_difference_to_onnx": {
                "image_embedding": parity.encoder,
                "low_resolution_logits": parity.decoder,
                "predicted_iou": parity.iou,
            },
            "not_in_the_sources": "image_encoder.norm_head and image_encoder.head are unused; "
            "here they are the identity and zero",
            "torch": torch.__version__,
            "onnx": metadata.version("onnx"),
            "onnxruntime": metadata.version("onnxruntime"),
        }
        # Before the checkpoint, because a rebuilt file without its record counts as damaged.
        write_json(provenance_file(target), record)


def mobile_sam_state_dict(encoder_onnx: Path, decoder_onnx: Path) -> dict[str, Tensor]:
    """Return MobileSAM's full state dict, read from its two ONNX files.

    The names, shapes and order are those of MobileSAM's own checkpoint.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape.
    """
    import torch

    encoder, decoder = _Graph(encoder_onnx), _Graph(decoder_onnx)
    found = {f"image_encoder.{name}": value for name, value in _encoder_tensors(encoder)}
    found |= dict(_decoder_tensors(decoder))
    network = empty_mobile_sam()
    wanted = network.state_dict()
    for name, idxs in network.named_buffers():
        if name.endswith(".attention_bias_idxs"):
            biases = name.removesuffix("_bias_idxs") + "_biases"
            found[biases] = collapse_biases(found[biases], idxs, offsets=wanted[biases].shape[1])
    found |= _constants(wanted)
    odd = [
        name
        for name in wanted.keys() | found.keys()
        if name not in wanted or name not in found or wanted[name].shape != found[name].shape
    ]
    if odd:
        raise WeightsError(f"MobileSAM's ONNX files do not fit at {', '.join(sorted(odd)[:3])}")
    return {name: found[name].to(torch.as_tensor(wanted[name]).dtype) for name in wanted}


class _Graph:
    """Constants and nodes of an ONNX file, constants as torch tensors."""

    def __init__(self, path: Path) -> None:
        import onnx
        import torch

        graph = onnx.load(str(path)).graph

        def tensor(value: Any) -> Tensor:
            return torch.from_numpy(onnx.numpy_helper.to_array(value).copy())

        self.constants: dict[str, Tensor] = {t.name: tensor(t) for t in graph.initializer}
        self.nodes: list[Any] = list(graph.node)
        for node in self.nodes:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.constants[node.output[0]] = tensor(attribute.t)

    def parameters(self) -> Iterator[tuple[str, str, Tensor]]:
        """Yield (module path, type of node, constant) for each constant that a node uses."""
        for node in self.nodes:
            for name in node.input:
                if name in self.constants:
                    yield module_path(node.name), node.op_type, self.constants[name]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the constants that kept their own names."""
        for name, value in self.constants.items():
            if not name.startswith(("onnx::", "/")):
                yield name, value


def module_path(node_name: str) -> str:
    """Return the module that a graph node came from.

    A member of a sequence is named twice by the exporter:
    `/patch_embed/seq/seq.0/c/Conv` → `patch_embed.seq.0.c`.
    """
    scopes = node_name.strip("/").split("/")[:-1]
    return ".".join(
        scope
        for scope, child in zip_longest(scopes, scopes[1:], fillvalue="")
        if not child.startswith(scope + ".")
    )


def _encoder_tensors(graph: _Graph) -> Iterator[tuple[str, Tensor]]:
    import torch

    yield from graph.named()
    for path, kind, value in graph.parameters():
        if kind == "Conv" and path.endswith(".c"):
            if value.ndim == 4:
                yield f"{path}.weight", value
                continue
            # The convolution already contains the normalisation. A batch normalisation with mean
            # 0, variance 1 and this weight does nothing but add its bias.
            norm, ones = path.removesuffix("c") + "bn", torch.ones_like(value)
            yield f"{norm}.weight", ones * math.sqrt(1 + BATCH_NORM_EPS)
            yield f"{norm}.bias", value
            yield f"{norm}.running_mean", torch.zeros_like(value)
            yield f"{norm}.running_var", ones
            yield f"{norm}.num_batches_tracked", torch.tensor(0)
        elif kind == "Add" and path.endswith(".attn") and value.ndim == 3:
            yield f"{path}.attention_biases", value
        else:
            yield from _common(path, kind, value)


def _decoder_tensors(graph: _Graph) -> Iterator[tuple[str, Tensor]]:
    for name, value in graph.named():
        # The exporter's wrapper holds the whole model beside its mask decoder.
        yield name.removeprefix("model."), value
    for path, kind, value in graph.parameters():
        if kind == "Expand" and value.shape == (1, 5, 256):
            yield "mask_decoder.iou_token.weight", value[0, :1]
            yield "mask_decoder.mask_tokens.weight", value[0, 1:]
        elif kind == "Mul" and value.shape == (1, 256, 1, 1):
            yield "prompt_encoder.no_mask_embed.weight", value.reshape(1, 256)
        else:
            part = "prompt_encoder" if path.startswith("mask_downscaling") else "mask_decoder"
            yield from _common(f"{part}.{path}", kind, value)


def _common(path: str, kind: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield linear layers and normalisation over channels, which both graphs store alike."""
    if kind == "MatMul" and value.ndim == 2 and not path.endswith((".", "pe_layer")):
        yield f"{path}.weight", value.T.contiguous()
    elif kind in ("Mul", "Add") and value.ndim == 3 and value.shape[1:] == (1, 1):
        yield f"{path}.{'weight' if kind == 'Mul' else 'bias'}", value.flatten()


def collapse_biases(spread: Tensor, idxs: Tensor, *, offsets: int) -> Tensor:
    """Return one attention bias per offset from (heads, n, n), one per pair of positions.

    Raises:
        WeightsError: two pairs of the same offset have different biases.
    """
    import torch

    heads = spread.shape[0]
    if spread.shape[1:] != idxs.shape:
        raise WeightsError(f"MobileSAM's ONNX file has windows of {tuple(spread.shape)}")
    biases = torch.zeros(heads, offsets, dtype=spread.dtype)
    biases[:, idxs.flatten()] = spread.reshape(heads, -1)
    if not torch.equal(biases[:, idxs], spread):
        raise WeightsError(
            "MobileSAM's ONNX file has attention biases that depend on more than offsets"
        )
    return biases


def _constants(wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return neutral values for the ImageNet head, which the ONNX files leave out."""
    import torch

    head = {
        name: torch.zeros_like(value)
        for name, value in wanted.items()
        if name.startswith(("image_encoder.norm_head.", "image_encoder.head."))
    }
    return head | {"image_encoder.norm_head.weight": torch.ones(320)}


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences on fixed inputs.

    Attributes:
        encoder: of the image embedding; its values are about 0.1 to 1.
        decoder: of the mask logits at 256×256.
        iou: of the predicted IoU.
    """

    encoder: float
    decoder: float
    iou: float


def check_parity(state: Mapping[str, Tensor], encoder_onnx: Path, decoder_onnx: Path) -> Parity:
    """Run both implementations on one seeded image with a click and a box, and with a mask.

    Args:
        state: MobileSAM's state dict.
        encoder_onnx: (B, 3, 1024, 1024) normalised RGB → (B, 256, 64, 64).
        decoder_onnx: Meta's export of prompt encoder and mask decoder, single mask.

    Raises:
        WeightsError: a difference is 1e-4 or more in the embedding, 1e-3 or more in the logits.
    """
    import numpy as np
    import onnxruntime
    import torch
    from segment_anything.utils.onnx import SamOnnxModel

    network = build_mobile_sam(state)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3

    def session(path: Path) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )

    with torch.no_grad():
        ours = network.image_encoder(torch.from_numpy(image)).numpy()
        (theirs,) = session(encoder_onnx).run(None, {"input": image})
        encoder = float(np.abs(ours - theirs).max())
        ours_decoder = SamOnnxModel(network, return_single_mask=True)
        their_decoder = session(decoder_onnx)
        decoder, iou = 0.0, 0.0
        for has_mask in (0.0, 1.0):
            # Labels: 1 a click inside, 0 a click outside, 2 and 3 the corners of a box.
            prompts = {
                "image_embeddings": theirs,
                "point_coords": rng.uniform(0, IMAGE_SIZE, (1, 4, 2)).astype(np.float32),
                "point_labels": np.array([[1, 0, 2, 3]], dtype=np.float32),
                "mask_input": rng.standard_normal((1, 1, MASK_INPUT_SIZE, MASK_INPUT_SIZE)).astype(
                    np.float32
                ),
                "has_mask_input": np.array([has_mask], dtype=np.float32),
                "orig_im_size": np.array([IMAGE_SIZE, IMAGE_SIZE], dtype=np.float32),
            }
            _, our_iou, our_logits = ours_decoder(*map(torch.from_numpy, prompts.values()))
            _, their_iou, their_logits = their_decoder.run(None, prompts)
            decoder = max(decoder, float(np.abs(our_logits.numpy() - their_logits).max()))
            iou = max(iou, float(np.abs(our_iou.numpy() - their_iou).max()))
    # Written so that NaN fails too.
    if not (encoder < ENCODER_LIMIT and decoder < DECODER_LIMIT):
        raise WeightsError(
            f"rebuilt MobileSAM differs from its ONNX files by {encoder:.1e} in the embedding "
            f"and {decoder:.1e} in the logits"
        )
    return Parity(encoder=encoder, decoder=decoder, iou=iou)
