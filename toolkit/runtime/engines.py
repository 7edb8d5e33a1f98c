"""Open a network in ONNX Runtime or OpenVINO; without torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Network = Callable[..., Sequence[NDArray[np.float32]]]


def open_network(
    path: Path, engine: str, precision: str, *, threads: int = 0, streams: int = 1
) -> Network:
    """Open a network file in an engine: called with its inputs, it returns its outputs.

    It may be called from several threads.

    Args:
        path: an ONNX file, or OpenVINO's XML file.
        engine: `onnxruntime` or `openvino`.
        precision: `float32`, `bfloat16` or `int8`; what the processor cannot do is float32.
        threads: of the processor; 0: as many as `OMP_NUM_THREADS` says, or all.
        streams: images that are computed at a time; 1 is the fastest for a single image. 0, for a
            service: an image that comes alone has all threads, two that come together share them.
    """
    threads = threads or default_threads()
    if engine == "onnxruntime":
        return _open_onnxruntime(path, max(1, threads // max(1, streams)))
    if streams:
        pinned = threads >= _usable_processors()
        return _open_openvino(path, precision, threads, streams, pinned=pinned)
    alone = _open_openvino(path, precision, threads, 1, pinned=False)
    if threads == 1:
        return alone
    return _choosing(alone, _open_openvino(path, precision, threads, 2, pinned=False))


def default_threads() -> int:
    """Return `OMP_NUM_THREADS`, or the number of processors that this process may use."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    if text.isdecimal() and int(text):
        return int(text)
    return _usable_processors()


def _usable_processors() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _open_onnxruntime(path: Path, threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        outputs: Sequence[NDArray[np.float32]] = session.run(
            None, dict(zip(names, inputs, strict=True))
        )
        return outputs

    return run


@cache
def openvino_core() -> Any:
    """Return the one core of this process, which is never closed.

    The plugin of the processor gives the thread that loads it another stack for signals, and frees
    that memory with the core. The next signal would then end the process.
    """
    import openvino

    # OpenVINO fills its tables of types on their first use, and lets another thread run
    # while it holds their lock. If that thread uses them too, both wait for ever.
    openvino.Type.f32.to_dtype()
    openvino.Type(np.float32)
    return openvino.Core()


def _choosing(alone: Network, together: Network) -> Network:
    """Return a network that is `alone` for a call while no other is going on, else `together`.

    Threads that share one image wait for each other wherever another thread takes a processor; with
    an image each they do not.
    """
    lock, calls = threading.Lock(), 0

    def run(*inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        nonlocal calls
        with lock:
            network = together if calls else alone
            calls += 1
        try:
            return network(*inputs)
        finally:
            with lock:
                calls -= 1

    return run


def _open_openvino(
    path: Path, precision: str, threads: int, streams: int, *, pinned: bool
) -> Network:
    core = openvino_core()
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    compiled = core.compile_model(
        str(path),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            # OpenVINO would bind its threads to the first processors, the single threads of two
            # processes to the same one, and those of a service to processors that decode images.
            "ENABLE_CPU_PINNING": pinned,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" and native else "f32",
        },
    )
    own = threading.local()  # a request serves one thread

    def run(*inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        found = own.request.infer(list(inputs), share_inputs=True)
        return [np.array(found[output]) for output in compiled.outputs]

    return run
