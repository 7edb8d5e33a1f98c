"""Write a network as an ONNX file, and open it to compare both."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolkit.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor, nn

_OPSET = 17


def write_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Write a network as an ONNX file by tracing.

    Args:
        network: in evaluation mode, on the CPU.
        inputs: an example of each input, by name, in the order of the network's arguments. Sizes
            that are not named in `dynamic_axes` become constants.
        outputs: names of the outputs.
        path: the file.
        dynamic_axes: per input, the axes whose size may differ.

    Raises:
        MissingExtraError: ONNX is not installed.
    """
    try:
        import onnx  # noqa: F401 - torch's exporter needs it
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            error.name or "onnx", extra=None, purpose="export to ONNX"
        ) from error
    with warnings.catch_warnings(), torch.no_grad():
        # It warns that it is the older exporter (the newer needs another package), and of traced
        # constants (those that matter would fail the comparison).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={}
            if dynamic_axes is None
            else {k: dict(v) for k, v in dynamic_axes.items()},
            opset_version=_OPSET,
            dynamo=False,
        )


def write_graph(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Any:
    """Write a network as an ONNX file and open it; arguments as of `write_onnx`.

    Returns:
        An `onnxruntime.InferenceSession` on the CPU.

    Raises:
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            error.name or "onnxruntime", extra="onnx", purpose="export to ONNX"
        ) from error
    write_onnx(network, inputs, outputs, path, dynamic_axes=dynamic_axes)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
