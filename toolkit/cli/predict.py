"""`toolkit predict RUN IMAGE…`: predict new images with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say
from toolkit.errors import DataError


def predict_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders or glob patterns.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for plots and JSON Lines.")] = Path(
        "predictions"
    ),
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Card of toolkit calibrate: decide OK, REVIEW or NOK."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="auto|torch|onnxruntime|openvino",
            help="What the network runs in; auto: the fastest that agrees with torch.",
        ),
    ] = "torch",
) -> None:
    """Predict images: print a decision for each, write plots and predictions.jsonl.

    An image that cannot be read is reported and left out; the exit status is then 1.
    """
    from toolkit.inference.model import load_model
    from toolkit.inference.sinks import PREDICTIONS, write_results

    errors: list[DataError] = []

    def report_error(error: DataError) -> None:
        say(f"left out: {error}")
        errors.append(error)

    model = load_model(run, calibration=calibration, engine=engine)
    results = model.predict(images, stream=True, on_error=report_error)
    for result in write_results(results, out, classes=model.classes):
        print(result.summary())
    say(f"engine {model.engine}; threshold {model.threshold}; plots and {PREDICTIONS} are in {out}")
    if errors:
        raise typer.Exit(1)
