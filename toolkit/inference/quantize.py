"""Write a network in 8-bit integers: its convolutions only, so that banks and distances stay float.

A convolution is quantized statically, with activation ranges from calibration images. What lies
behind the last convolution (distances to a bank, decoding of boxes, softmax) stays as it is.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import MissingExtraError
from toolkit.runtime.engines import openvino_core

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KEPT_FLOAT = ("/dfl/",)
"""Convolutions that are a weighted mean of box distances, where eight bits are too few."""


def quantize_onnx(source: Path, target: Path, inputs: Sequence[NDArray[np.uint8]]) -> None:
    """Write an ONNX network with quantized convolutions, by ONNX Runtime.

    Args:
        source: the float32 network, with one input `image`.
        target: the file to write.
        inputs: calibration inputs, uint8 (1, H, W, 3).
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Any] = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            one = next(self._left, None)
            return None if one is None else {"image": one}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(str(prepared), load_external_data=False).graph.node
        names = [n.name for n in nodes if n.op_type == "Conv" and not _is_kept(n.name)]
        with _quiet():
            quantization.quantize_static(
                str(prepared),
                str(target),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                nodes_to_quantize=names,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                # Half the range of weights: without VNNI a sum of two products would overflow.
                reduce_range=not _has_vnni(),
            )


def quantize_openvino(source: Path, target: Path, inputs: Sequence[NDArray[np.uint8]]) -> None:
    """Write an OpenVINO network with quantized convolutions, by NNCF; arguments as above.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", extra="int8", purpose="export in int8") from error
    import openvino

    model = openvino_core().read_model(str(source))
    with _quiet():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(list(inputs)),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=_behind_convolutions(model), validate=False),
        )
    openvino.save_model(quantized, str(target), compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks of a library from standard output and from the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)


def _behind_convolutions(model: Any) -> list[str]:
    """Return the names of operations that no convolution follows, and of those kept float."""
    leads: set[str] = set()
    kept: list[str] = []
    for node in reversed(model.get_ordered_ops()):
        name, kind = node.get_friendly_name(), node.get_type_name()
        followers = {
            other.get_node().get_friendly_name()
            for output in node.outputs()
            for other in output.get_target_inputs()
        }
        is_convolution = kind in ("Convolution", "GroupConvolution") and not _is_kept(name)
        if is_convolution or followers & leads:
            leads.add(name)
        if not (is_convolution or followers & leads) and kind not in ("Constant", "Result"):
            kept.append(name)
    return kept


def _is_kept(name: str) -> bool:
    return any(part in name for part in _KEPT_FLOAT)


def _has_vnni() -> bool:
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
