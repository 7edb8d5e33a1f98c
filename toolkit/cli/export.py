"""`toolkit export RUN --to onnx`: write a finished run as a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def export_command(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    form: Annotated[str, typer.Option("--to", help="Format: onnx.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option("--out", help="Output folder; default: exported/<method>-<name>.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set, if it was moved since the training.")
    ] = None,
    images: Annotated[
        int,
        typer.Option("--images", min=1, help="Number of test images on which both are compared."),
    ] = 4,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing folder.")
    ] = False,
) -> None:
    """Export a run, and keep the export only if it predicts the same as the run."""
    from toolkit.data.layouts import load_dataset
    from toolkit.errors import ConfigError, did_you_mean
    from toolkit.inference.export import write_export
    from toolkit.methods.registry import load_method
    from toolkit.runs.run import Run
    from toolkit.runs.scored_predictions import load_scored_predictions

    if form != "onnx":
        raise ConfigError(f"--to {form}: unknown{did_you_mean(form, ['onnx'])}")
    run = Run.open(run_path)
    stored = run.record["data"]
    dataset = load_dataset(data or stored["root"], layout=stored["layout"])
    samples = load_scored_predictions(run, dataset, "test").samples
    count = min(images, len(samples))
    # Spread over the test part, so that good and defective images are among them.
    spread = [samples[i * (len(samples) - 1) // max(count - 1, 1)] for i in range(count)]
    method = load_method(run)
    out = out or Path("exported") / f"{run.method}-{run.path.name}"
    exported = write_export(
        run, lambda folder: method.export(run, folder, spread), out, overwrite=overwrite
    )
    for file in exported.files:
        print(out / file)
    say(
        f"checked on {exported.checked}: largest difference {exported.max_difference:.2g} "
        f"(allowed {exported.tolerance:.2g})"
    )
