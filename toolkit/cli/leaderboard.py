"""`toolkit leaderboard` and `toolkit evaluate`: metrics from stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.common import say

if TYPE_CHECKING:
    from toolkit.runs.run import Run


def leaderboard_command(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUNS]...", help="Runs or folders of runs, or their address."),
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
        typer.Option(
            "--sort", help="Column to sort and rank by; default: the first one, or auroc."
        ),
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Print every 95 % interval, not only one column's.")
    ] = False,
    by_category: Annotated[
        bool, typer.Option("--by-category", help="Print each data set's own table.")
    ] = False,
    seeds: Annotated[
        str, typer.Option("--seeds", help="pooled (mean ± std in one row) or each.")
    ] = "pooled",
    part: Annotated[
        str, typer.Option("--part", help="test, or val: the parts by which settings are chosen.")
    ] = "test",
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Add results that others published, in grey.")
    ] = False,
    write: Annotated[
        list[Path] | None,
        typer.Option("--write", help="Document to write into, between its markers; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the markers; default: that of the folder.")
    ] = None,
) -> None:
    """Compare all finished runs; several data sets are columns of one table, with their mean."""
    from toolkit.leaderboards.board import check_format, leaderboard
    from toolkit.leaderboards.columns import parse_names
    from toolkit.leaderboards.documents import write_documents
    from toolkit.runs.store import fetch_runs
    from toolkit.storage import is_address

    check_format(form)
    folders = [fetch_runs(one) if is_address(one) else Path(one) for one in places or ["runs"]]
    board = leaderboard(
        folders,
        columns=None if columns is None else parse_names(columns),
        sort=sort,
        seeds=seeds,
        published=with_published,
        all_intervals=intervals,
        by_category=by_category,
        part=part,
    )
    if write:
        named = name or folders[0].resolve().name
        stored = Path("docs") / f"leaderboard-{named}.json"
        write_documents(board, name=named, stored=stored, documents=write)
        say(f"written: {', '.join(map(str, [*write, stored]))}")
    print(board.render(form))
    for line in board.left_out:
        say(f"left out: {line}")
    if board.left_out:
        raise typer.Exit(1)


def evaluate_command(
    places: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs or folders of runs.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the data lies now, if it was moved.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            metavar="masked",
            help="Predict again with the defects filled in from good images; does the score stay?",
        ),
    ] = None,
) -> None:
    """Compute the metrics of runs again from their stored predictions, and replace metrics.json."""
    from toolkit.data.types import Dataset
    from toolkit.errors import ToolkitError
    from toolkit.leaderboards.board import leaderboard
    from toolkit.leaderboards.collect import collect
    from toolkit.runs.evaluate import dataset_of, evaluate

    if control is not None:
        _print_control(places, data, control)
        return
    found = collect(places)
    left_out = list(found.left_out)
    datasets: dict[str, Dataset] = {}
    for run in found:
        root = str(data or run.record["data"]["root"])
        try:
            if root not in datasets:
                datasets[root] = dataset_of(run, moved_to=data)
            run.finish(evaluate(run, datasets[root]))
        except ToolkitError as error:
            left_out.append(str(error))
            continue
        say(f"evaluated: {run.path}")
        print(leaderboard(run))
    for line in left_out:
        say(f"left out: {line}")
    if left_out:
        raise typer.Exit(1)


def _print_control(places: list[Path], data: Path | None, control: str) -> None:
    from toolkit.errors import ConfigError, ToolkitError, did_you_mean
    from toolkit.inference.control import CONTROLS, masked_control
    from toolkit.leaderboards.collect import collect
    from toolkit.leaderboards.rows import entry_name

    if control not in CONTROLS:
        raise ConfigError(f"--control {control}: unknown{did_you_mean(control, CONTROLS)}")
    found = collect(places)
    left_out = list(found.left_out)
    groups: dict[tuple[str, str], list[Run]] = {}  # scores of two methods have no common scale
    for run in found:
        groups.setdefault((run.record["data"]["root"], entry_name(run)), []).append(run)
    for runs in groups.values():
        try:
            print(masked_control(runs, moved_to=data, show_progress=True))
        except ToolkitError as error:
            left_out.append(str(error))
    for line in left_out:
        say(f"left out: {line}")
    if not groups:
        raise typer.Exit(2)
    if left_out:
        raise typer.Exit(1)
