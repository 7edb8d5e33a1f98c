"""`toolkit calibrate RUN --good DIR`: set the thresholds of a run with a stated risk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def calibrate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    good: Annotated[
        Path | None,
        typer.Option("--good", help="Folder of good images that the run was not trained on."),
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            "--cross-fit",
            help="Instead of --good: score the training images by so many models that lack them.",
        ),
    ] = 0,
    defects: Annotated[
        Path | None, typer.Option("--defects", help="Folder of defective images, to count escapes.")
    ] = None,
    max_false_alarms: Annotated[
        float, typer.Option("--max-false-alarms", help="Share of good products that may be NOK.")
    ] = 0.01,
    max_reviews: Annotated[
        float | None,
        typer.Option("--max-reviews", help="Share of good products that may be REVIEW or NOK."),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Probability that each promise holds.")
    ] = 0.95,
    cost_escape: Annotated[
        float | None, typer.Option("--cost-escape", help="Cost of a defect that passes.")
    ] = None,
    cost_false_alarm: Annotated[
        float | None, typer.Option("--cost-false-alarm", help="Cost of a flagged good product.")
    ] = None,
    defect_rate: Annotated[
        float | None, typer.Option("--defect-rate", help="Share of defective products.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The card; default: calibrations/<method>-<name>.json."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing card.")
    ] = False,
) -> None:
    """Set the thresholds so that at most a share of good products is flagged.

    Writes a calibration card (JSON, and the same as a page beside it) for: toolkit predict
    RUN IMAGE --calibration CARD.
    """
    from toolkit.decisions.calibrate import Prices, calibrate
    from toolkit.decisions.cross_fit import cross_fit
    from toolkit.decisions.page import card_lines, card_page
    from toolkit.errors import ConfigError
    from toolkit.files import OutputError, write_text
    from toolkit.inference.model import load_model
    from toolkit.runs.evaluate import dataset_of

    if (good is None) == (folds == 0):
        raise ConfigError(
            "calibrate: give either --good FOLDER of images that were held back, or --cross-fit 5 "
            "to score the run's own training images"
        )
    costs = (cost_escape, cost_false_alarm, defect_rate)
    prices = None
    if any(cost is not None for cost in costs):
        if cost_escape is None or cost_false_alarm is None or defect_rate is None:
            raise ConfigError(
                "costs: give all of --cost-escape, --cost-false-alarm and --defect-rate"
            )
        prices = Prices(cost_escape, cost_false_alarm, defect_rate)
    model = load_model(run)
    out = out or Path("calibrations") / f"{model.run.method}-{model.run.path.name}.json"
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: must end in .json")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: already there; choose another --out or add --overwrite")
    found = calibrate(
        model,
        good if good is not None else cross_fit(model.run, dataset_of(model.run), folds=folds),
        defects=defects,
        max_false_alarms=max_false_alarms,
        max_reviews=max_reviews,
        confidence=confidence,
        prices=prices,
    )
    page = out.with_suffix(".html")
    write_text(page, card_page(found))
    found.card.write(out)
    print("\n".join(card_lines(found.card)))
    for name in found.duplicates:
        say(f"left out: {name}: equal to another image")
    say(f"card {out}, page {page}")
