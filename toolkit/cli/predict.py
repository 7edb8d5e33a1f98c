"""`toolkit predict RUN IMAGE…`: what a finished run says of new images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def predict_command(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files or folders.")],
    out: Annotated[Path, typer.Option("--out", help="Where pictures and JSON go.")] = Path(
        "predictions"
    ),
) -> None:
    """Score images, draw and list what was found, and say yes or no at the run's threshold."""
    from toolkit.methods.registry import load_method
    from toolkit.runs.machine import keep_freed_memory
    from toolkit.runs.predict import image_samples, validation_heat_range, write_answers
    from toolkit.runs.run import Run

    keep_freed_memory()
    run = Run.open(run_path)
    metrics = run.metrics()
    threshold = metrics["thresholds"][0]
    samples = image_samples(images)
    predictions = load_method(run).predict(samples, run)
    answers = write_answers(
        samples,
        predictions,
        out=out,
        threshold=threshold,
        heat_range=validation_heat_range(run),
        classes=sorted(metrics.get("boxes", {}).get("ap50_by_class", {})),
    )
    for sample, prediction, defective in answers:
        word = "?" if defective is None else ("defect" if defective else "good")
        print(f"{word:6}  {prediction.score:10.4g}  {sample.image}")
    say(f"threshold {threshold}; pictures and predictions.json are in {out}")
