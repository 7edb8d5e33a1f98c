"""`toolkit demo`: every step once, on the synthetic sample, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def demo_command(
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    out: Annotated[Path, typer.Option("--out", help="Folder of the converted data.")] = Path(
        "converted"
    ),
) -> None:
    """Make the sample, convert it, train every method briefly and print the leaderboard."""
    from toolkit.cli.benchmark import benchmark_command
    from toolkit.data.layouts import load_dataset
    from toolkit.data.protocols import make_plan
    from toolkit.data.synthetic import default_sample
    from toolkit.formats.convert import convert

    folder = default_sample()
    dataset = load_dataset(folder)
    say(f"1. the synthetic sample: {len(dataset)} images in {folder}")
    split = make_plan(dataset).fold(dataset, 0)
    for number, form in enumerate(("yolo", "sam"), start=2):
        target = out / f"{dataset.name}-{form}"
        convert(dataset, to=form, out=target, split=split, overwrite=True)
        say(f"{number}. converted for {form}: {target}")
    say("4. five methods, trained briefly")
    benchmark_command("benchmark/demo", data=[str(folder)], runs=str(runs))
