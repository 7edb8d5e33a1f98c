"""Run the network of a loaded run in ONNX Runtime or OpenVINO instead of torch.

The network is written as ONNX once, compared with torch, and kept in `<home>/cache/engines`, in a
folder that is named by a hash of what it was made from. See docs/engines.md.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit import __version__
from toolkit.data.images import read_rgb
from toolkit.data.types import file_sha256
from toolkit.errors import (
    ConfigError,
    MissingExtraError,
    ParityError,
    RunError,
    ToolkitError,
    did_you_mean,
)
from toolkit.files import OutputError, atomic_folder, read_json, write_json
from toolkit.home import cache_dir
from toolkit.methods.base import EnginePredictor
from toolkit.runs.environment import package_version, processor
from toolkit.runs.prediction_io import read_predictions
from toolkit.runtime.engines import default_threads, open_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.methods.base import Engine, Graph, Predictor
    from toolkit.runs.run import Run

ENGINES = ("auto", "torch", "onnxruntime", "openvino")

TOLERANCE = 1e-3
"""Largest difference from torch that passes: of a network's output, as a share of its largest
value; of an image score, as a share of the score, or absolute below 1."""

_FORMAT = 2  # of the files; one more whenever the graphs of the methods change
_EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}
_MODEL, _RECORD = "model.onnx", "engine.json"
_PARITY_IMAGES, _TIMED_CALLS = 4, 10


class _NoOnnxError(RunError):
    """A network has an operation that ONNX does not have."""


def check_engine(name: str) -> None:
    """Refuse an engine that does not exist or is not installed.

    Raises:
        ConfigError: there is no such engine.
        MissingExtraError: it is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name}: unknown{did_you_mean(name, ENGINES)}")
    for package in (name, "onnx") if name in _EXTRAS else ():  # onnx writes the network's file
        if find_spec(package) is None:
            raise MissingExtraError(
                package, extra=_EXTRAS[name], purpose=f"predict with the engine {name}"
            )


def use_engine(
    predictor: Predictor, run: Run, name: str, *, streams: int = 1
) -> tuple[Predictor, str]:
    """Return a predictor that runs its network in an engine, and what it runs in.

    `auto` takes the engine that was fastest when the files were made, of those that are installed
    and agree with torch, and torch where none is faster.

    Example:
        >>> predictor, engine = use_engine(method.load(run), run, "auto")  # doctest: +SKIP
        >>> engine  # doctest: +SKIP
        'openvino float32'

    Args:
        predictor: of the run, in torch.
        run: a finished run.
        name: `auto`, `torch`, `onnxruntime` or `openvino`.
        streams: images that are computed beside each other.

    Raises:
        ConfigError: there is no such engine, or the method or the run's device has torch alone.
        RunError: the named engine cannot run the network, which ONNX cannot express.
        MissingExtraError: it is not installed.
        ParityError: the named engine differs from torch by more than `TOLERANCE`.
    """
    check_engine(name)
    installed = [one for one in _EXTRAS if find_spec(one) and find_spec("onnx")]
    if name == "torch":
        return predictor, "torch"
    reason = ""
    graph = predictor.graph() if run.device == "cpu" else None
    if not installed:
        reason = "no other engine is installed (pip install 'inspection-toolkit[openvino]')"
    elif run.device != "cpu":
        reason = f"the run predicts on {run.device}, and engines run on the CPU"
    elif graph is None:
        reason = f"{run.method} runs in torch alone"
    if reason or graph is None:
        if name != "auto":
            raise ConfigError(f"{run.path}: engine {name}: {reason}; use: --engine torch")
        _say(f"engine torch: {reason}")
        return predictor, "torch"
    try:
        files = _engine_files(predictor, graph, run, installed)
    except _NoOnnxError as error:
        if name != "auto":
            raise
        _say(f"engine torch: {error}")
        return predictor, "torch"
    with files as folder:
        record = read_json(folder / _RECORD)
        fastest = _fastest(record, name)
        if fastest is None:
            tried = {k: v for k, v in record["engines"].items() if name == k.split()[0]}
            differences = [v.get("error") or f"{v['difference']:.3g}" for v in tried.values()]
            raise ParityError(
                f"{run.path}: {name} differs from torch ({', '.join(differences)}; allowed "
                f"{TOLERANCE:.3g}); use: --engine auto"
            )
        if fastest == "torch":
            _say(f"engine torch: no other engine is faster and agrees with it ({folder})")
            return predictor, "torch"
        return predictor.with_engine(
            open_engine(folder / _MODEL, fastest, streams=streams)
        ), fastest


def cached_engine(run: Run, name: str, *, streams: int = 1) -> tuple[Predictor, str] | None:
    """Return what `use_engine` does from files that were made before, without importing torch.

    Returns:
        None where torch is needed: to make the files, or because it is the fastest.
    """
    if name == "torch" or run.device != "cpu":
        return None
    recipe = _recipe(run)
    folder = _folder(recipe)
    if not _fits(folder, recipe):
        return None
    record = read_json(folder / _RECORD)
    fastest = _fastest(record, name)
    if fastest in (None, "torch") or record["steps"] is None:
        return None
    engine = open_engine(folder / _MODEL, str(fastest), streams=streams)
    return EnginePredictor(record["steps"], engine), str(fastest)


def _fastest(record: dict[str, Any], name: str) -> str | None:
    """Return the fastest engine and precision that agree with torch; None if none does."""
    tried = {k: v for k, v in record["engines"].items() if name in ("auto", k.split()[0])}
    seconds = {k: float(v["seconds"]) for k, v in tried.items() if v["passed"]}
    if name == "auto":
        seconds["torch"] = float(record["torch_seconds"])
    return min(seconds, key=lambda k: seconds[k]) if seconds else None


def open_engine(path: Path, name: str, *, streams: int = 1) -> Engine:
    """Open an ONNX file of `Predictor.graph` in an engine.

    Args:
        path: the file.
        name: engine and precision, such as `openvino bfloat16`.
        streams: images that are computed beside each other.
    """
    engine, precision = name.split()
    return open_network(path, engine, precision, streams=streams)


def _engine_files(
    predictor: Predictor, graph: Graph, run: Run, installed: Sequence[str]
) -> AbstractContextManager[Path]:
    """Return the folder of the run's engine files, making them first where they do not fit.

    Where the cache cannot be written, the folder is removed at the end of the context.
    """
    recipe = _recipe(run)
    folder = _folder(recipe)
    if folder.exists() and not _fits(folder, recipe):
        _say(f"{folder}: not what was made from {run.path}; making it again")
    elif not folder.exists():
        _say(f"making the engine files of {run.path} (once)")
    else:
        return nullcontext(folder)
    try:
        with atomic_folder(folder, overwrite=True) as fresh:
            _make(fresh, predictor, graph, run, installed, recipe)
    except OutputError as error:
        _say(f"{error}; the next process makes the engine files again")
        return _temporary_files(predictor, graph, run, installed, recipe)
    return nullcontext(folder)


@contextmanager
def _temporary_files(
    predictor: Predictor, graph: Graph, run: Run, installed: Sequence[str], recipe: dict[str, Any]
) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        _make(Path(name), predictor, graph, run, installed, recipe)
        yield Path(name)


def _recipe(run: Run) -> dict[str, Any]:
    """Return everything that engine files and their timing depend on, as JSON values."""
    files = sorted(path for path in run.weights.rglob("*") if path.is_file())
    return {
        "format": _FORMAT,
        "method": run.method,
        "settings": run.record["settings"],
        "seed": run.seed,
        "weights": {p.relative_to(run.weights).as_posix(): file_sha256(p) for p in files},
        "toolkit": __version__,
        "versions": {name: package_version(name) for name in ("torch", "onnx", *_EXTRAS)},
        "processor": processor(),
        "threads": default_threads(),
    }


def _folder(recipe: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "engines" / digest


def _fits(folder: Path, recipe: dict[str, Any]) -> bool:
    """Return whether a folder holds undamaged files of this recipe."""
    try:
        record = read_json(folder / _RECORD)
        digest = file_sha256(folder / _MODEL)
    except (ToolkitError, OSError):
        return False
    return (
        isinstance(record, dict)
        and record.get("recipe") == recipe
        and record.get("sha256") == digest
    )


def _make(
    folder: Path,
    predictor: Predictor,
    graph: Graph,
    run: Run,
    installed: Sequence[str],
    recipe: dict[str, Any],
) -> None:
    """Write the network as ONNX, and how every installed engine compares with torch."""
    import torch

    write_network(graph, folder / _MODEL, run)
    images, checked = _parity_images(run)
    inputs: list[NDArray[np.uint8]] = []

    def in_torch(image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        inputs.append(image.copy())
        with torch.inference_mode():
            return [one.numpy() for one in graph.module(torch.from_numpy(image))]

    scores = [one.score for one in predictor.predict(images)]
    predictor.with_engine(in_torch).predict(images)
    seen = list(inputs)
    expected = [in_torch(one) for one in seen]
    engines = {}
    for name in _variants(installed):
        try:
            engine = open_engine(folder / _MODEL, name)
            pairs = [(engine(one), wanted) for one, wanted in zip(seen, expected, strict=True)]
            found = [one.score for one in predictor.with_engine(engine).predict(images)]
        except Exception as error:  # engines have errors of their own; any means: not this one
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            engines[name] = {"passed": False, "error": reason, "seconds": None}
            continue
        apart = [_difference(a, b) for a, b in pairs]
        apart += [abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, scores, strict=True)]
        difference = float(np.max(apart))  # not `max`, which would pass over what is not a number
        engines[name] = {
            "passed": bool(difference <= TOLERANCE),
            "difference": difference if np.isfinite(difference) else 1e9,
            "seconds": _seconds(engine, seen[0]),
        }
    in_torch_seconds = _seconds(in_torch, seen[0])
    write_json(
        folder / _RECORD,
        {
            "recipe": recipe,
            "steps": predictor.steps(),
            "sha256": file_sha256(folder / _MODEL),
            "checked": checked,
            "tolerance": TOLERANCE,
            "engines": engines,
            "torch_seconds": in_torch_seconds,
        },
    )


def write_network(graph: Graph, path: Path, run: Run) -> None:
    """Write the network of a run as ONNX.

    Raises:
        RunError: ONNX cannot express it.
        MissingExtraError: ONNX is not installed.
    """
    import torch

    from toolkit.methods.onnx_graph import write_onnx

    try:
        write_onnx(
            graph.module,
            {"image": torch.from_numpy(graph.example)},
            graph.outputs,
            path,
            dynamic_axes={"image": {1: "height", 2: "width"}} if graph.any_size else None,
        )
    except (ToolkitError, OSError):
        raise
    except Exception as error:  # torch's exporter has no error class of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _NoOnnxError(
            f"{run.path}: its network cannot be written as ONNX ({reason}); use: --engine torch"
        ) from error


def _variants(installed: Sequence[str]) -> list[str]:
    """Return engines with the precisions that this processor computes in."""
    names = [f"{one} float32" for one in installed]
    if "openvino" in installed:
        import openvino

        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            names.append("openvino bfloat16")
    return names


def _difference(
    found: Sequence[NDArray[np.float32]], expected: Sequence[NDArray[np.float32]]
) -> float:
    """Return the largest difference of an output, as a share of that output's largest value."""
    return float(
        np.max([np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9)
                for a, b in zip(found, expected, strict=True)])
    )  # fmt: skip


def _seconds(engine: Callable[[NDArray[np.uint8]], Any], image: NDArray[np.uint8]) -> float:
    times = []
    for _ in range(_TIMED_CALLS):
        started = time.perf_counter()
        engine(image)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _parity_images(run: Run) -> tuple[list[NDArray[np.uint8]], str]:
    """Return images to compare on: validation images, or noise where these are out of reach."""
    root, images = Path(run.record["data"]["root"]), []
    try:
        for prediction in islice(read_predictions(run.predictions, "val"), _PARITY_IMAGES):
            images.append(read_rgb(root / prediction.sample_id))
    except (ToolkitError, OSError):
        images = []
    if images:
        return images, f"{len(images)} validation images"
    draw = np.random.default_rng(0)
    noise = [draw.integers(0, 256, (320, 320, 3), np.uint8) for _ in range(_PARITY_IMAGES)]
    return noise, f"{len(noise)} images of noise"


def _say(message: str) -> None:
    print(message, file=sys.stderr)
