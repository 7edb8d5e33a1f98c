"""`toolkit predict RUN SOURCE…`: predict new images with a finished run or an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from toolkit.cli.common import say
from toolkit.errors import ConfigError, DataError


def predict_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run, or a folder of toolkit export.")
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Files, folders, glob patterns, lists of paths (.txt, .parquet), archives (.zip, "
            ".tar), videos, or - for paths from standard input.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="Another source, such as the number of a camera."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the results. Default: predictions; of a manifest, beside it.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Card of toolkit calibrate: decide OK, REVIEW or NOK."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            envvar="TOOLKIT_ENGINE",
            metavar="auto|torch|onnxruntime|openvino",
            help="What the network runs in; auto: the fastest that agrees with torch.",
        ),
    ] = "auto",
    pictures: Annotated[
        Literal["all", "defects", "none"] | None,
        typer.Option(
            "--pictures",
            help="Which images are drawn with what was found. Default: all; of a manifest, none.",
        ),
    ] = None,
    form: Annotated[
        Literal["jsonl", "parquet"],
        typer.Option("--format", help="parquet: predictions.parquet beside predictions.jsonl."),
    ] = "jsonl",
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the results in --out; predict what is missing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no line per image.")] = False,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(
            "--executor",
            help="ray: SOURCE is one manifest (see toolkit manifest), predicted by a Ray cluster.",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="auto|ray://HOST:PORT",
            help="The Ray cluster. Default: that of this machine, or a new one on it.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Workers of the cluster; 0: one per CPU.")
    ] = 0,
    block_rows: Annotated[
        int, typer.Option("--block-rows", min=1, help="Images of one file of a manifest's results.")
    ] = 1000,
) -> None:
    """Predict images: print a decision for each, write plots and predictions.jsonl.

    An image that cannot be read is reported and left out; the exit status is then 1.
    """
    from toolkit.inference.predict import predict_to_folder
    from toolkit.inference.sinks import check_parquet

    sources = [*(images or []), *(source or [])]
    if not sources:
        raise ConfigError("SOURCE: name images, a folder, or another source; see: --help")
    if executor == "ray":
        if len(sources) != 1:
            raise ConfigError("--executor ray: takes one SOURCE, a manifest of: toolkit manifest")
        _predict_manifest(
            run, Path(sources[0]), out=out, calibration=calibration, engine=engine,
            pictures=pictures or "none", address=address, workers=workers, block_rows=block_rows,
        )  # fmt: skip
        return
    if address is not None:
        raise ConfigError("--address: needs --executor ray")
    if form == "parquet":
        check_parquet()
    errors: list[DataError] = []

    def report_error(error: DataError) -> None:
        say(f"left out: {error}")
        errors.append(error)

    stopped = predict_to_folder(
        run, sources, out or Path("predictions"), calibration=calibration, engine=engine,
        pictures=pictures or "all",
        parquet=form == "parquet", resume=resume, on_error=report_error,
        on_line=None if quiet else print, say=say,
    )  # fmt: skip
    if stopped:
        say("stopped; continue with --resume")
        raise typer.Exit(128 + stopped)
    if errors:
        raise typer.Exit(1)


def _predict_manifest(run: Path, source: Path, **options: Any) -> None:
    from toolkit.inference.fleet import predict_manifest

    done = predict_manifest(run, source, say=say, **options)
    kept = f", {done.kept} were answered before" if done.kept else ""
    say(f"{done.rows} images answered{kept}; {done.unreadable} unreadable; results: {done.out}")
    if done.failed or done.unreadable:
        raise typer.Exit(1)
