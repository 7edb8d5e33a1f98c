"""What `toolkit serve` and `toolkit watch` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from toolkit.cli.common import say

if TYPE_CHECKING:
    from toolkit.line.station import Station

RunArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")]
Calibration: TypeAlias = Annotated[
    Path | None, typer.Option("--calibration", help="Card of toolkit calibrate.")
]
EngineOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--engine",
        envvar="TOOLKIT_ENGINE",
        metavar="auto|torch|onnxruntime|openvino",
        help="What the network runs in; auto: the fastest that agrees with torch.",
    ),
]
StateOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state", help="Folder of ledger and feedback; default: line/<method>-<name of the run>."
    ),
]
SinkOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--sink",
        help="file:PATH, http(s)://…, mqtt://HOST/TOPIC, modbus://HOST:PORT or "
        "opc.tcp://HOST:PORT#NODE; may be repeated.",
    ),
]
TimeoutOption: TypeAlias = Annotated[
    float, typer.Option("--timeout", help="Seconds after which an image is NOK.")
]
MegapixelsOption: TypeAlias = Annotated[
    float, typer.Option("--max-megapixels", help="Larger images are NOK without being decoded.")
]
FrozenOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--frozen", help="Folder with ok/ and nok/: images by which a new model is judged."
    ),
]


def default_state(run: Path, state: Path | None) -> Path:
    """Return `--state`, or its default for a run."""
    if state is not None:
        return state
    path = run.resolve()
    return Path("line") / f"{path.parent.name}-{path.name}"


def make_station(
    run: Path, *, calibration: Path | None, engine: str, state: Path | None,
    sinks: list[str] | None, timeout: float, max_megapixels: float, max_waiting: int = 32,
) -> Station:  # fmt: skip
    """Load the model and set up its line."""
    from toolkit.line.answers import NamedModel
    from toolkit.line.station import Station, StationOptions
    from toolkit.runs.environment import usable_cores

    options = StationOptions(
        sinks=sinks or (),
        max_waiting=max_waiting,
        max_pixels=round(max_megapixels * 1e6),
        timeout=timeout,
        threads=usable_cores(),
    )
    model = NamedModel.load(run, calibration=calibration, engine=engine)
    return Station(model, default_state(run, state), options, say=say)
