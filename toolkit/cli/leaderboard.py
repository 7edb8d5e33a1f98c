"""`toolkit leaderboard` and `toolkit evaluate`: figures from stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def leaderboard_command(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUNS]...", help="Runs or folders of runs.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="table, markdown, csv, json or html.")
    ] = "table",
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Columns, or dotted paths into metrics.json: a,b,c."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", help="Column to sort and rank by; default: the first, or auroc."),
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Show every 95 % interval, not only one column's.")
    ] = False,
    seeds: Annotated[
        str, typer.Option("--seeds", help="pooled (mean ± std in one row) or each.")
    ] = "pooled",
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Show figures that others published, in grey.")
    ] = False,
    write: Annotated[
        list[Path] | None,
        typer.Option("--write", help="Document to write into, between its markers; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the markers; default: that of the folder.")
    ] = None,
    stored: Annotated[
        Path | None,
        typer.Option("--stored", help="With --write; default: docs/leaderboard-NAME.json."),
    ] = None,
) -> None:
    """Print the comparison of all finished runs; runs of different splits stand apart."""
    from toolkit.leaderboard.board import build_board, collect
    from toolkit.leaderboard.columns import parse_names
    from toolkit.leaderboard.documents import write_documents
    from toolkit.leaderboard.published import published_references
    from toolkit.leaderboard.render import check_form, render

    check_form(form)
    board = build_board(
        collect(places or [Path("runs")]),
        columns=None if columns is None else parse_names(columns),
        sort=sort,
        seeds=seeds,
        references=published_references() if with_published else (),
        all_intervals=intervals,
    )
    if write:
        named = name or (places or [Path("runs")])[0].resolve().name
        kept = stored or Path("docs") / f"leaderboard-{named}.json"
        write_documents(board, name=named, stored=kept, documents=write)
        say(f"written: {', '.join(map(str, [*write, kept]))}")
    print(render(board, form))
    if board.left_out:
        for line in board.left_out if form == "csv" else ():  # a table of CSV has no room for it
            say(f"left out: {line}")
        raise typer.Exit(1)


def evaluate_command(
    places: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs or folders of runs.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the data lies now, if it was moved.")
    ] = None,
) -> None:
    """Compute the metrics of runs again, from their stored predictions alone."""
    from toolkit.data.layouts import read_dataset
    from toolkit.data.types import Dataset
    from toolkit.errors import ToolkitError
    from toolkit.leaderboard.collect import collect
    from toolkit.leaderboard.summary import run_summary
    from toolkit.runs.costs import checkpoint_bytes
    from toolkit.training import score

    found = collect(places)
    left_out = list(found.left_out)
    datasets: dict[str, Dataset] = {}
    for run in found:
        stored = run.record["data"]
        root = str(data or stored["root"])
        try:
            if root not in datasets:
                datasets[root] = read_dataset(root, layout=stored["layout"])
            if "checkpoint_bytes" not in run.metadata:  # made by an earlier version
                run.update_metadata(checkpoint_bytes=checkpoint_bytes(run))
            run.finish(score(run, datasets[root]))
        except ToolkitError as error:
            left_out.append(str(error))
            continue
        say(f"evaluated: {run.path}")
        print(run_summary(run))
    for line in left_out:
        say(f"left out: {line}")
    if left_out:
        raise typer.Exit(1)
