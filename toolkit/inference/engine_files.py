"""Files of inference engines: a network as ONNX, and how each engine compares with torch.

They are kept in `<home>/cache/engines`, in folders named by a hash of what they were made from.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import __version__
from toolkit.data.types import file_sha256
from toolkit.errors import RunError, ToolkitError
from toolkit.files import OutputError, atomic_folder, read_json
from toolkit.home import cache_dir
from toolkit.inference.parity import Parity
from toolkit.runs.environment import package_version, processor
from toolkit.runtime.engines import open_network, openvino_core
from toolkit.verification.checksums import is_sealed, write_sealed

if TYPE_CHECKING:
    from toolkit.methods.base import Engine, Graph
    from toolkit.runs.run import Run

EXTRAS = {"openvino": None, "onnxruntime": "onnx"}
"""The engines besides torch, and the extra that installs each."""
MODEL, RECORD = "model.onnx", "engine.json"
_FORMAT = 8  # of the files; one more whenever the graphs of the methods change


class NoOnnxError(RunError):
    """A network has an operation that ONNX does not have."""


def open_engine(path: Path, name: str, *, streams: int = 1) -> Engine:
    """Open an ONNX file of `Predictor.graph` in an engine.

    Args:
        path: the file.
        name: engine and precision, such as `openvino bfloat16`.
        streams: images that are computed beside each other.
    """
    engine, precision = name.split()
    return open_network(path, engine, precision, streams=streams)


def installed_engines() -> list[str]:
    """Return the engines besides torch that can be used here."""
    return [one for one in EXTRAS if find_spec(one) and find_spec("onnx")]


def engine_files(
    parity: Parity, recipe: dict[str, Any], candidates: Sequence[str]
) -> AbstractContextManager[Path]:
    """Return the folder of a network's engine files, making them first where they do not fit.

    Its record has the candidates up to the first that agrees with torch; the others are compared
    when they are wanted.

    Args:
        parity: of the network.
        recipe: what the files are made from.
        candidates: engines and precisions, such as `openvino float32`, the most wanted first.

    Returns:
        A context; where the cache cannot be written, the folder is removed at its end.
    """
    folder = folder_of(recipe)
    record = record_of(folder, recipe)
    if record is not None and holds_network(folder, recipe):
        left = untried(record, candidates)
        if not left:
            return nullcontext(folder)
        say(f"comparing {left[0]} with {parity.owner} in torch (once)")
        write = partial(_compare, folder, record, left, parity)
    else:
        if folder.exists():
            say(f"{folder}: not what was made from {parity.owner}; making it again")
        else:
            say(f"making the engine files of {parity.owner} (once)")
        write = partial(_make_anew, folder, parity, candidates, recipe)
    try:
        write()
    except OutputError as error:
        say(f"{error}; the next process makes the engine files again")
        return _temporary_files(parity, candidates, recipe)
    return nullcontext(folder)


@contextmanager
def _temporary_files(
    parity: Parity, candidates: Sequence[str], recipe: dict[str, Any]
) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        _make(Path(name), parity, candidates, recipe)
        yield Path(name)


def recipe_of(run: Run | None, graph: Graph | None = None) -> dict[str, Any]:
    """Return everything that engine files depend on, as JSON values.

    Args:
        run: whose weights they are made from.
        graph: its network, which may be one that many runs share.
    """
    if graph is not None and graph.shared is not None:
        return {**shared_recipe(), "network": graph.shared.key}
    assert run is not None
    files = sorted(path for path in run.weights.rglob("*") if path.is_file())
    return {
        **shared_recipe(),
        "method": run.method,
        "settings": run.record["settings"],
        "seed": run.seed,
        "weights": {p.relative_to(run.weights).as_posix(): file_sha256(p) for p in files},
    }


def shared_recipe() -> dict[str, Any]:
    """Return what the files of every network depend on."""
    return {
        "format": _FORMAT,
        "toolkit": __version__,
        "versions": {name: package_version(name) for name in ("torch", "onnx", *EXTRAS)},
        "processor": processor(),
    }


def folder_of(recipe: dict[str, Any]) -> Path:
    """Return the folder of what is made by a recipe."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "engines" / digest


def holds_network(folder: Path, recipe: dict[str, Any]) -> bool:
    """Return whether a folder holds an undamaged network of this recipe."""
    record = record_of(folder, recipe)
    try:
        return record is not None and record.get("sha256") == file_sha256(folder / MODEL)
    except (ToolkitError, OSError):
        return False


def record_of(folder: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a folder; None if it is missing, damaged or of another recipe."""
    try:
        record = read_json(folder / RECORD)
    except (ToolkitError, OSError):
        return None
    fits = isinstance(record, dict) and is_sealed(record) is not False
    return record if fits and record.get("recipe") == recipe else None


def _make_anew(
    folder: Path, parity: Parity, candidates: Sequence[str], recipe: dict[str, Any]
) -> None:
    with atomic_folder(folder, overwrite=True) as fresh:
        _make(fresh, parity, candidates, recipe)


def _make(folder: Path, parity: Parity, candidates: Sequence[str], recipe: dict[str, Any]) -> None:
    """Write the network as ONNX, and how the candidates compare with torch."""
    write_network(parity.graph, folder / MODEL, parity.owner)
    record = {
        "recipe": recipe,
        "sha256": file_sha256(folder / MODEL),
        "steps": None if parity.predictor is None else parity.predictor.steps(),
        "float32_only": parity.graph.float32_only,
        "engines": {},
    }
    _compare(folder, record, candidates, parity)


def _compare(
    folder: Path, record: dict[str, Any], candidates: Sequence[str], parity: Parity
) -> None:
    """Compare candidates with torch until one agrees, and write the record with them."""
    measured = parity.measure(
        {name: partial(open_engine, folder / MODEL, name) for name in candidates}
    )
    engines = {**record["engines"], **measured["engines"]}
    write_sealed(folder / RECORD, {**record, **measured, "engines": engines})


def untried(record: dict[str, Any], candidates: Sequence[str]) -> Sequence[str]:
    """Return the candidates that have to be compared: none where a better one agrees."""
    for number, name in enumerate(candidates):
        if name not in record["engines"]:
            return candidates[number:]
        if record["engines"][name]["passed"]:
            break
    return ()


def write_network(graph: Graph, path: Path, owner: object) -> None:
    """Write the network of a run as ONNX.

    Args:
        graph: the network.
        path: the file.
        owner: what an error names.

    Raises:
        RunError: ONNX cannot express it.
        MissingExtraError: ONNX is not installed.
    """
    import torch

    from toolkit.methods.onnx_graph import write_onnx

    try:
        write_onnx(
            graph.module,
            {name: torch.from_numpy(array) for name, array in graph.example.items()},
            graph.outputs,
            path,
            dynamic_axes=graph.free,
        )
    except (ToolkitError, OSError):
        raise
    except Exception as error:  # torch's exporter has no error class of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoOnnxError(
            f"{owner}: its network cannot be written as ONNX ({reason}); use: --engine torch"
        ) from error


def variants(installed: Sequence[str]) -> list[str]:
    """Return engines with the precisions that this processor computes in."""
    names = [f"{one} float32" for one in installed]
    if "openvino" in installed and "BF16" in openvino_core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        names.append("openvino bfloat16")
    return names


def say(message: str) -> None:
    """Write a line to standard error."""
    print(message, file=sys.stderr)
