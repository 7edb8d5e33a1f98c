"""`toolkit weights`: list, fetch and verify pretrained checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from rich.console import Console

    from toolkit.weights.download import Progress

weights_app = typer.Typer(help="Pretrained weights: list, fetch, verify.", no_args_is_help=True)


@weights_app.command("list")
def list_weights() -> None:
    """Show every known checkpoint and whether it is here."""
    from rich.table import Table

    from toolkit.weights import local, registry

    table = Table("name", "licence", "from", "here", "size")
    table.columns[0].no_wrap = True
    table.columns[-1].justify = "right"
    for entry in registry.load().values():
        path = local.locate(entry)
        size = path.stat().st_size if path is not None else entry.size
        table.add_row(
            entry.name,
            entry.licence,
            ", ".join(local.sources(entry)),
            "yes" if path is not None else "no",
            f"{size / 1e6:,.1f} MB" if size is not None else "?",
        )
    _console().print(table)


@weights_app.command("fetch")
def fetch_weights(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names, see: toolkit weights list")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Fetch every known checkpoint.")
    ] = False,
) -> None:
    """Bring checkpoints to this machine."""
    from toolkit.weights import download, fetch, registry

    if bool(names) == everything:
        raise ConfigError("weights fetch: give names (see: toolkit weights list), or --all")
    # Unknown names fail before anything is downloaded.
    entries = [registry.get(name) for name in (registry.load() if everything else names or [])]
    download.forget_unreachable_hosts()
    console, failures = _console(), []
    for entry in entries:
        try:
            with _progress(console, entry.name) as progress:
                path = fetch.fetch(entry.name, progress=progress)
        except WeightsError as error:
            failures.append(str(error))
            console.print(f"{entry.name}: failed", style="red", highlight=False)
        else:
            console.print(f"{entry.name}: {path}", soft_wrap=True, highlight=False)
    if len(failures) == 1:
        raise WeightsError(failures[0])
    if failures:
        raise WeightsError(
            f"{len(failures)} of {len(entries)} not fetched: " + " | ".join(failures)
        )


@weights_app.command("verify")
def verify_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Names; all by default.")] = None,
) -> None:
    """Compare fetched files with the registry; exit status 1 if one is damaged."""
    from toolkit.weights import local, registry

    entries = [registry.get(name) for name in names or registry.load()]
    console = _console()
    verdicts = [local.verify(entry.name) for entry in entries]
    for verdict in verdicts:
        # Without names, what was never fetched is no news.
        if names or verdict.state != "missing":
            line = f"{verdict.state:9}{verdict.name}: {verdict.path} ({verdict.detail})"
            console.print(line, soft_wrap=True, highlight=False)
    if all(verdict.state == "missing" for verdict in verdicts) and not names:
        console.print("nothing fetched yet; see: toolkit weights list")
    if any(verdict.state == "damaged" for verdict in verdicts):
        raise typer.Exit(1)


def _console() -> Console:
    from rich.console import Console

    return Console()


@contextmanager
def _progress(console: Console, name: str) -> Iterator[Progress | None]:
    """Yield what shows a bar on a terminal, and None elsewhere."""
    if not console.is_terminal:
        yield None
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn(name),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def update(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield update
