"""`toolkit predict RUN IMAGE…`: predict new images with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def predict_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders or glob patterns.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for plots and JSON Lines.")] = Path(
        "predictions"
    ),
) -> None:
    """Predict images: print a decision for each, write plots and predictions.jsonl."""
    from toolkit.inference.model import load_model
    from toolkit.inference.sinks import PREDICTIONS, write_results

    model = load_model(run)
    results = model.predict(images, stream=True)
    for result in write_results(results, out, classes=model.classes):
        print(result.summary())
    say(f"threshold {model.threshold}; plots and {PREDICTIONS} are in {out}")
