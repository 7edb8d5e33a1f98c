"""Run the network of a loaded run in ONNX Runtime or OpenVINO instead of torch.

The network is written as ONNX once, compared with torch, and kept in `<home>/cache/engines`, in a
folder that is named by a hash of what it was made from. See docs/engines.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import __version__
from toolkit.data.types import file_sha256
from toolkit.errors import (
    ConfigError,
    MissingExtraError,
    ParityError,
    RunError,
    ToolkitError,
    did_you_mean,
)
from toolkit.files import OutputError, atomic_folder, read_json
from toolkit.home import cache_dir
from toolkit.inference.parity import Parity
from toolkit.methods.base import EnginePredictor
from toolkit.runs.environment import package_version, processor
from toolkit.runtime.engines import open_network, openvino_core
from toolkit.verification.checksums import is_sealed, write_sealed

if TYPE_CHECKING:
    from toolkit.data.types import Dataset
    from toolkit.methods.base import Engine, Graph, Predictor
    from toolkit.runs.run import Run

ENGINES = ("auto", "torch", "onnxruntime", "openvino")

_ORDER = ("openvino bfloat16", "openvino float32", "onnxruntime float32")  # the fastest first
_FORMAT = 7  # of the files; one more whenever the graphs of the methods change
_EXTRAS = {"openvino": None, "onnxruntime": "onnx"}
_MODEL, _RECORD = "model.onnx", "engine.json"
_MAIN = ""  # name of the network of `Predictor.graph` among those of a run


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
                package,
                extra=_EXTRAS.get(package),
                purpose=f"predict with the engine {name}",
            )


def default_engine() -> str:
    """Return the engine that is used where none is named: `TOOLKIT_ENGINE`, or `auto`."""
    return os.environ.get("TOOLKIT_ENGINE") or "auto"


def use_engine(
    predictor: Predictor,
    run: Run,
    name: str,
    *,
    dataset: Dataset | None = None,
    streams: int = 1,
) -> tuple[Predictor, str]:
    """Return a predictor that runs its networks in an engine, and what it runs in.

    `auto` takes the first that is installed and agrees with torch, of OpenVINO in bfloat16,
    OpenVINO in float32, and ONNX Runtime; else torch. That is the order of their speed
    (docs/engines.md); it is not measured anew, so that a machine always takes the same. Further
    networks, and predictors that are asked, take theirs by the same rule, each for itself.

    Example:
        >>> predictor, engine = use_engine(method.load(run), run, "auto")  # doctest: +SKIP
        >>> engine  # doctest: +SKIP
        'openvino float32'

    Args:
        predictor: of the run, in torch.
        run: a run with stored predictions of its validation part.
        name: `auto`, `torch`, `onnxruntime` or `openvino`.
        dataset: its data; read from where the run was made on it if None.
        streams: images that are computed beside each other.

    Raises:
        ConfigError: there is no such engine, or the method or the run's device has torch alone.
        RunError: the named engine cannot run the network, which ONNX cannot express.
        MissingExtraError: it is not installed.
        ParityError: the named engine differs from torch by more than `TOLERANCE`.
    """
    check_engine(name)
    installed = _installed()
    if name == "torch":
        return predictor, "torch"
    reason = ""
    graph = predictor.graph() if run.device == "cpu" else None
    if not installed:
        reason = "no other engine is installed (pip install openvino onnx)"
    elif run.device != "cpu":
        reason = f"the run predicts on {run.device}, and engines run on the CPU"
    elif graph is None:
        reason = f"{run.method} runs in torch alone"
    if reason or graph is None:
        if name != "auto":
            raise ConfigError(f"{run.path}: engine {name}: {reason}; use: --engine torch")
        _say(f"engine torch: {reason}")
        return predictor, "torch"
    opened = _open_fastest(Parity(graph, predictor, run, dataset), run, name, installed, streams)
    if opened is None:
        return predictor, "torch"
    parts, graphs = {}, predictor.parts()
    for part, network in graphs.items():
        parity = Parity(network, None, run, dataset, part)
        of_part = _open_fastest(parity, run, name, installed, streams)
        if of_part is not None:
            parts[part] = of_part[0]
    asked = {}
    for role, other in predictor.asked().items():
        its_run = run.input(role)
        assert its_run is not None
        asked[role], _ = use_engine(other, its_run, name, dataset=dataset, streams=streams)
    if graphs and run.finished:
        _note_parts(run, predictor, {_MAIN: graph, **graphs})
    return predictor.with_engine(*opened).with_parts(parts, asked), opened[1]


def _note_parts(run: Run, predictor: Predictor, graphs: Mapping[str, Graph]) -> None:
    """Write where the engine files of a run's networks are, for a process without torch."""
    recipe = _recipe(run)
    folder, networks = _folder(recipe), {}
    for name, graph in graphs.items():
        assert graph.shared is not None
        networks[name] = graph.shared.key
    record = {
        "recipe": recipe,
        "steps": predictor.steps(),
        "networks": networks,
        "asked": sorted(predictor.asked()),
    }
    if record["steps"] is None or _record_of(folder, recipe) is not None:
        return
    try:
        with atomic_folder(folder, overwrite=True) as fresh:
            write_sealed(fresh / _RECORD, record)
    except OutputError:
        return  # the next process loads torch again


def _open_fastest(
    parity: Parity, run: Run, name: str, installed: Sequence[str], streams: int
) -> tuple[Engine, str] | None:
    """Return a network in the engine that it takes, and its name; None if that is torch.

    Raises:
        RunError, ParityError: as `use_engine`.
    """
    try:
        files = _engine_files(parity, _recipe(run, parity.graph), installed)
    except _NoOnnxError as error:
        if name != "auto":
            raise
        _say(f"engine torch: {error}")
        return None
    with files as folder:
        record = read_json(folder / _RECORD)
        fastest = _fastest(record, name)
        if fastest is None and name != "auto":
            tried = {k: v for k, v in record["engines"].items() if name == k.split()[0]}
            differences = [v.get("error") or f"{v['difference']:.3g}" for v in tried.values()]
            raise ParityError(
                f"{parity.owner}: {name} differs from torch ({', '.join(differences)}; allowed "
                f"{record['tolerance']:.3g}); use: --engine auto"
            )
        if fastest is None:
            _say(f"engine torch: no other engine agrees with it ({folder})")
            return None
        return open_engine(folder / _MODEL, fastest, streams=streams), fastest


def cached_engine(run: Run, name: str, *, streams: int = 1) -> tuple[Predictor, str] | None:
    """Return what `use_engine` does from files that were made before, without importing torch.

    Returns:
        None where torch is needed: to make the files, or because no other engine agrees with it.
    """
    if name == "torch" or run.device != "cpu":
        return None
    recipe = _recipe(run)
    record = _record_of(_folder(recipe), recipe)
    if record is None or record["steps"] is None:
        return None
    networks = record.get("networks", {})
    recipes = {part: {**_common_recipe(), "network": key} for part, key in networks.items()}
    opened = {}
    for part, of_part in (recipes or {_MAIN: recipe}).items():
        found = _open_cached(of_part, name, streams)
        if found is None:
            return None
        opened[part] = found
    asked = {}
    for role in record.get("asked", []):
        its_run = run.input(role)
        other = None if its_run is None else cached_engine(its_run, name, streams=streams)
        if other is None:
            return None
        asked[role] = other[0]
    engine, fastest = opened.pop(_MAIN)
    parts = {part: one for part, (one, _) in opened.items()}
    return EnginePredictor(record["steps"], engine, parts, asked), fastest


def _open_cached(recipe: dict[str, Any], name: str, streams: int) -> tuple[Engine, str] | None:
    """Return a network in the engine that it takes, and its name; None where there is no file."""
    folder = _folder(recipe)
    if not _fits(folder, recipe):
        return None
    fastest = _fastest(read_json(folder / _RECORD), name)
    if fastest is None:
        return None
    return open_engine(folder / _MODEL, fastest, streams=streams), fastest


def _fastest(record: dict[str, Any], name: str) -> str | None:
    """Return the first engine and precision that agree with torch; None if none does."""
    return next(
        (
            one
            for one in _ORDER
            if name in ("auto", one.split()[0]) and record["engines"].get(one, {}).get("passed")
        ),
        None,
    )


def open_engine(path: Path, name: str, *, streams: int = 1) -> Engine:
    """Open an ONNX file of `Predictor.graph` in an engine.

    Args:
        path: the file.
        name: engine and precision, such as `openvino bfloat16`.
        streams: images that are computed beside each other.
    """
    engine, precision = name.split()
    return open_network(path, engine, precision, streams=streams)


def lasting_engine(graph: Graph, *, streams: int) -> tuple[Engine, str] | None:
    """Return an engine for outputs that are kept, and its name; None where torch is left alone.

    It is chosen by rule, the fastest as a rule first, and not by a race, and each call has one
    thread, so that the same machine computes the same bits every time.

    Args:
        graph: with `shared`.
        streams: calls that run side by side.
    """
    installed = _installed()
    if not installed:
        return None
    try:
        with _engine_files(Parity(graph), _recipe(None, graph), installed) as folder:
            engines = read_json(folder / _RECORD)["engines"]
            for name in _ORDER:
                if engines.get(name, {}).get("passed"):
                    engine, precision = name.split()
                    network = open_network(
                        folder / _MODEL, engine, precision, threads=streams, streams=streams
                    )
                    return network, name
    except _NoOnnxError as error:
        _say(f"engine torch: {error}")
    return None


def _installed() -> list[str]:
    return [one for one in _EXTRAS if find_spec(one) and find_spec("onnx")]


def _engine_files(
    parity: Parity, recipe: dict[str, Any], installed: Sequence[str]
) -> AbstractContextManager[Path]:
    """Return the folder of a network's engine files, making them first where they do not fit.

    Where the cache cannot be written, the folder is removed at the end of the context.
    """
    folder = _folder(recipe)
    if folder.exists() and not _fits(folder, recipe):
        _say(f"{folder}: not what was made from {parity.owner}; making it again")
    elif not folder.exists():
        _say(f"making the engine files of {parity.owner} (once)")
    else:
        return nullcontext(folder)
    try:
        with atomic_folder(folder, overwrite=True) as fresh:
            _make(fresh, parity, installed, recipe)
    except OutputError as error:
        _say(f"{error}; the next process makes the engine files again")
        return _temporary_files(parity, installed, recipe)
    return nullcontext(folder)


@contextmanager
def _temporary_files(
    parity: Parity, installed: Sequence[str], recipe: dict[str, Any]
) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        _make(Path(name), parity, installed, recipe)
        yield Path(name)


def _recipe(run: Run | None, graph: Graph | None = None) -> dict[str, Any]:
    """Return everything that engine files depend on, as JSON values.

    Args:
        run: whose weights they are made from.
        graph: its network, which may be one that many runs share.
    """
    if graph is not None and graph.shared is not None:
        return {**_common_recipe(), "network": graph.shared.key}
    assert run is not None
    files = sorted(path for path in run.weights.rglob("*") if path.is_file())
    return {
        **_common_recipe(),
        "method": run.method,
        "settings": run.record["settings"],
        "seed": run.seed,
        "weights": {p.relative_to(run.weights).as_posix(): file_sha256(p) for p in files},
    }


def _common_recipe() -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "toolkit": __version__,
        "versions": {name: package_version(name) for name in ("torch", "onnx", *_EXTRAS)},
        "processor": processor(),
    }


def _folder(recipe: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "engines" / digest


def _fits(folder: Path, recipe: dict[str, Any]) -> bool:
    """Return whether a folder holds an undamaged network of this recipe."""
    record = _record_of(folder, recipe)
    try:
        return record is not None and record.get("sha256") == file_sha256(folder / _MODEL)
    except OSError:
        return False


def _record_of(folder: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a folder; None if it is missing, damaged or of another recipe."""
    try:
        record = read_json(folder / _RECORD)
    except (ToolkitError, OSError):
        return None
    fits = isinstance(record, dict) and is_sealed(record) is not False
    return record if fits and record.get("recipe") == recipe else None


def _make(folder: Path, parity: Parity, installed: Sequence[str], recipe: dict[str, Any]) -> None:
    """Write the network as ONNX, and how every installed engine compares with torch."""
    write_network(parity.graph, folder / _MODEL, parity.owner)
    path = folder / _MODEL
    names = _variants(installed)
    if parity.graph.float32_only:
        names = [name for name in names if name.endswith("float32")]
    engines = {name: partial(open_engine, path, name) for name in names}
    record = {"recipe": recipe, "sha256": file_sha256(path), **parity.measure(engines)}
    record["steps"] = None if parity.predictor is None else parity.predictor.steps()
    write_sealed(folder / _RECORD, record)


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
        raise _NoOnnxError(
            f"{owner}: its network cannot be written as ONNX ({reason}); use: --engine torch"
        ) from error


def _variants(installed: Sequence[str]) -> list[str]:
    """Return engines with the precisions that this processor computes in."""
    names = [f"{one} float32" for one in installed]
    if "openvino" in installed and "BF16" in openvino_core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        names.append("openvino bfloat16")
    return names


def _say(message: str) -> None:
    print(message, file=sys.stderr)
