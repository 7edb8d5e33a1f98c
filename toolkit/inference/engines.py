"""Run the network of a loaded run in ONNX Runtime or OpenVINO instead of torch.

The network is written as ONNX once, compared with torch, and kept in `<home>/cache/engines`, in a
folder that is named by a hash of what it was made from. See docs/engines.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from toolkit.errors import ConfigError, MissingExtraError, ParityError, did_you_mean
from toolkit.files import OutputError, atomic_folder, read_json
from toolkit.inference.engine_files import (
    EXTRAS,
    MODEL,
    RECORD,
    NoOnnxError,
    engine_files,
    folder_of,
    holds_network,
    installed_engines,
    open_engine,
    recipe_of,
    record_of,
    say,
    shared_recipe,
    untried,
    variants,
)
from toolkit.inference.parity import Parity
from toolkit.methods.base import EnginePredictor
from toolkit.runtime.engines import open_network
from toolkit.verification.checksums import write_sealed

if TYPE_CHECKING:
    from toolkit.data.types import Dataset
    from toolkit.methods.base import Engine, Graph, Predictor
    from toolkit.runs.run import Run

ENGINES = ("auto", "torch", "onnxruntime", "openvino")

_ORDER = ("openvino bfloat16", "openvino float32", "onnxruntime float32")  # the fastest first
_MAIN = ""  # name of the network of `Predictor.graph` among those of a run


def check_engine(name: str) -> None:
    """Refuse an engine that does not exist or is not installed.

    Raises:
        ConfigError: there is no such engine.
        MissingExtraError: it is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name}: unknown{did_you_mean(name, ENGINES)}")
    for package in (name, "onnx") if name in EXTRAS else ():  # onnx writes the network's file
        if find_spec(package) is None:
            raise MissingExtraError(
                package,
                extra=EXTRAS.get(package),
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
    networks, and runs that prompt, take theirs by the same rule, each for itself.

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
    installed = installed_engines()
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
        say(f"engine torch: {reason}")
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
    prompters = {}
    for role, other in predictor.prompters().items():
        its_run = run.input(role)
        assert its_run is not None
        prompters[role], _ = use_engine(other, its_run, name, dataset=dataset, streams=streams)
    if graphs and run.finished:
        _note_parts(run, predictor, {_MAIN: graph, **graphs})
    return predictor.with_engine(*opened).with_parts(parts, prompters), opened[1]


def _note_parts(run: Run, predictor: Predictor, graphs: Mapping[str, Graph]) -> None:
    """Write where the engine files of a run's networks are, for a process without torch."""
    recipe = recipe_of(run)
    folder, networks = folder_of(recipe), {}
    for name, graph in graphs.items():
        assert graph.shared is not None
        networks[name] = graph.shared.key
    record = {
        "recipe": recipe,
        "steps": predictor.steps(),
        "networks": networks,
        "prompters": sorted(predictor.prompters()),
    }
    if record["steps"] is None or record_of(folder, recipe) is not None:
        return
    try:
        with atomic_folder(folder, overwrite=True) as fresh:
            write_sealed(fresh / RECORD, record)
    except OutputError:
        return  # the next process loads torch again


def _open_fastest(
    parity: Parity, run: Run, name: str, installed: Sequence[str], streams: int
) -> tuple[Engine, str] | None:
    """Return a network in the engine that it takes, and its name; None if that is torch.

    Raises:
        RunError, ParityError: as `use_engine`.
    """
    candidates = _candidates(name, installed, float32_only=parity.graph.float32_only)
    try:
        files = engine_files(parity, recipe_of(run, parity.graph), candidates)
    except NoOnnxError as error:
        if name != "auto":
            raise
        say(f"engine torch: {error}")
        return None
    with files as folder:
        record = read_json(folder / RECORD)
        fastest = _fastest(record, candidates)
        if fastest is None and name != "auto":
            tried = {k: v for k, v in record["engines"].items() if k in candidates}
            differences = [v.get("error") or f"{v['difference']:.3g}" for v in tried.values()]
            raise ParityError(
                f"{parity.owner}: {name} differs from torch ({', '.join(differences)}; allowed "
                f"{record['tolerance']:.3g}); use: --engine auto"
            )
        if fastest is None:
            say(f"engine torch: no other engine agrees with it ({folder})")
            return None
        return open_engine(folder / MODEL, fastest, streams=streams), fastest


def cached_engine(run: Run, name: str, *, streams: int = 1) -> tuple[Predictor, str] | None:
    """Return what `use_engine` does from files that were made before, without importing torch.

    Returns:
        None where torch is needed: to make the files, or because no other engine agrees with it.
    """
    if name == "torch" or run.device != "cpu":
        return None
    recipe = recipe_of(run)
    record = record_of(folder_of(recipe), recipe)
    if record is None or record["steps"] is None:
        return None
    networks = record.get("networks", {})
    recipes = {part: {**shared_recipe(), "network": key} for part, key in networks.items()}
    opened = {}
    for part, of_part in (recipes or {_MAIN: recipe}).items():
        found = _open_cached(of_part, name, streams)
        if found is None:
            return None
        opened[part] = found
    prompters = {}
    for role in record.get("prompters", []):
        its_run = run.input(role)
        other = None if its_run is None else cached_engine(its_run, name, streams=streams)
        if other is None:
            return None
        prompters[role] = other[0]
    engine, fastest = opened.pop(_MAIN)
    parts = {part: one for part, (one, _) in opened.items()}
    return EnginePredictor(record["steps"], engine, parts, prompters), fastest


def _open_cached(recipe: dict[str, Any], name: str, streams: int) -> tuple[Engine, str] | None:
    """Return a network in the engine that it takes, and its name; None where there is no file."""
    folder = folder_of(recipe)
    if not holds_network(folder, recipe):
        return None
    record = read_json(folder / RECORD)
    candidates = _candidates(name, installed_engines(), float32_only=record["float32_only"])
    fastest = _fastest(record, candidates)
    if fastest is None or untried(record, candidates):
        return None
    return open_engine(folder / MODEL, fastest, streams=streams), fastest


def _candidates(name: str, installed: Sequence[str], *, float32_only: bool) -> list[str]:
    """Return the engines and precisions that may run a network here, the fastest first."""
    possible = variants([one for one in installed if name in ("auto", one)])
    if float32_only:
        possible = [one for one in possible if one.endswith("float32")]
    return [one for one in _ORDER if one in possible]


def _fastest(record: dict[str, Any], candidates: Sequence[str]) -> str | None:
    """Return the first candidate that agrees with torch; None if none does."""
    compared = record["engines"]
    return next((one for one in candidates if compared.get(one, {}).get("passed")), None)


def lasting_engine(graph: Graph, *, streams: int) -> tuple[Engine, str] | None:
    """Return an engine for outputs that are kept, and its name; None where torch is left alone.

    It is chosen by rule, the fastest as a rule first, and not by a race, and each call has one
    thread, so that the same machine computes the same bits every time.

    Args:
        graph: with `shared`.
        streams: calls that run side by side.
    """
    installed = installed_engines()
    if not installed:
        return None
    try:
        candidates = _candidates("auto", installed, float32_only=graph.float32_only)
        with engine_files(Parity(graph), recipe_of(None, graph), candidates) as folder:
            name = _fastest(read_json(folder / RECORD), candidates)
            if name is not None:
                engine, precision = name.split()
                network = open_network(
                    folder / MODEL, engine, precision, threads=streams, streams=streams
                )
                return network, name
    except NoOnnxError as error:
        say(f"engine torch: {error}")
    return None
