"""`toolkit export RUN`: write a finished run as a folder that predicts without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.cli.common import say

_COMPARED = 4


def export_command(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    form: Annotated[
        Literal["onnx", "openvino", "checkpoint"],
        typer.Option("--to", help="Format of the network; checkpoint: files for other programs."),
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "bf16", "int8"],
        typer.Option("--precision", help="Of the network; what differs too much falls back."),
    ] = "fp32",
    out: Annotated[
        Path | None, typer.Option("--out", help="Output folder; default: exported/<method>-<name>.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Card of toolkit calibrate, whose thresholds it gets."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set, if it was moved since the training.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing folder.")
    ] = False,
) -> None:
    """Export a run, and keep the export only if it predicts the same as the run.

    The folder holds the network, manifest.json and predict.py, which needs numpy, OpenCV and the
    engine alone. With --to checkpoint, which sam has, it holds checkpoints and an ONNX decoder for
    other programs.
    """
    from toolkit.data.layouts import load_dataset
    from toolkit.decisions.card import CalibrationCard
    from toolkit.errors import ConfigError
    from toolkit.inference.export import export_files, export_run
    from toolkit.methods.registry import load_method
    from toolkit.runs.run import Run
    from toolkit.runs.scored_predictions import load_scored_predictions

    run = Run.open(run_path)
    run.metrics()  # refuses a run that is not finished
    stored = run.record["data"]
    dataset = load_dataset(data or stored["root"], layout=stored["layout"])
    out = out or Path("exported") / f"{run.method}-{run.path.name}"
    method = load_method(run)
    if form != "checkpoint":
        card = None if calibration is None else CalibrationCard.read(calibration)
        export_run(
            run, method, dataset, out, form=form, precision=precision, calibration=card,
            overwrite=overwrite, say=say,
        )  # fmt: skip
        for file in sorted(out.iterdir()):
            print(file)
        return
    if (precision, calibration) != ("fp32", None):
        raise ConfigError(
            f"{run_path}: a checkpoint has no --precision and no --calibration; use: --to onnx"
        )
    samples = load_scored_predictions(run, dataset, "test").samples
    count = min(_COMPARED, len(samples))
    # Spread over the test part, so that good and defective images are among them.
    spread = [samples[i * (len(samples) - 1) // max(count - 1, 1)] for i in range(count)]
    exported = export_files(
        run, lambda folder: method.export(run, folder, spread), out, overwrite=overwrite
    )
    for name in exported.files:
        print(out / name)
    say(
        f"checked on {exported.checked}: largest difference {exported.max_difference:.2g} "
        f"(allowed {exported.tolerance:.2g})"
    )
