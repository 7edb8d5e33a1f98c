"""`toolkit recommend RUNS…`: which method of a comparison fits a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def recommend_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Runs of one data set, or folders.")
    ],
    needs: Annotated[
        str | None,
        typer.Option(
            "--needs",
            metavar="boxes|masks|classes|maps",
            help="Outputs beside OK or NOK, with commas; the first one judges the methods.",
        ),
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option("--max-latency", help="Milliseconds per image.")
    ] = None,
    max_memory: Annotated[
        float | None, typer.Option("--max-memory", help="MB at the peak.")
    ] = None,
    max_labels: Annotated[
        int | None, typer.Option("--max-labels", help="Labelled defects for training.")
    ] = None,
    max_false_alarms: Annotated[
        float, typer.Option("--max-false-alarms", help="Share of good products that may be NOK.")
    ] = 0.01,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Of the promise on false alarms.")
    ] = 0.95,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the latency again on this machine.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("recommendation.html"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing page.")
    ] = False,
) -> None:
    """Say which method fits a line: chosen on validation parts, shown on test parts.

    Of the methods that meet all needs the best one, or a cheaper one (fewer labels, then lower
    latency) that is not significantly worse. Exit status 1 if none meets them.
    """
    from toolkit.decisions.recommend import recommend
    from toolkit.decisions.recommend_page import recommendation_page, recommendation_text
    from toolkit.errors import ConfigError
    from toolkit.files import OutputError, write_text

    if out.suffix != ".html":
        raise ConfigError(f"--out {out}: must end in .html")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: already there; choose another --out or add --overwrite")
    found = recommend(
        runs,
        needs=[word.strip() for word in (needs or "").split(",") if word.strip()],
        max_latency=max_latency,
        max_memory=max_memory,
        max_labels=max_labels,
        max_false_alarms=max_false_alarms,
        confidence=confidence,
        measure=measure,
    )
    write_text(out, recommendation_page(found))
    print(recommendation_text(found))
    say(f"page {out}")
    if found.chosen is None:
        raise typer.Exit(1)
