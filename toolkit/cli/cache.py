"""`toolkit cache`: list and delete cached arrays."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from toolkit.cli.common import say

cache_app = typer.Typer(
    help="List and delete cached embeddings, features and images.", no_args_is_help=True
)


@cache_app.command("list")
def list_cache() -> None:
    """List the contents of the cache, by kind, with their sizes."""
    from rich.console import Console
    from rich.table import Table

    from toolkit.cache import cache_kinds
    from toolkit.home import cache_dir

    kinds = cache_kinds()
    if not kinds:
        print(f"{cache_dir()}: nothing cached yet")
        return
    table = Table("kind", "contents", "files", "size", title=str(cache_dir()), title_justify="left")
    for column in (2, 3):
        table.columns[column].justify = "right"
    for kind in kinds:
        table.add_row(kind.name, kind.description, f"{kind.files:,}", _megabytes(kind.size_bytes))
    table.add_section()
    total = sum(kind.size_bytes for kind in kinds)
    table.add_row("all", "", f"{sum(kind.files for kind in kinds):,}", _megabytes(total))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


@cache_app.command("clear")
def clear_cache(
    names: Annotated[
        list[str] | None, typer.Argument(help="Kinds, see: toolkit cache list; default: all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
) -> None:
    """Delete cached files; they are computed again when needed. Runs, data and weights stay."""
    from toolkit.cache import chosen_kinds, clear_kind
    from toolkit.errors import ConfigError

    kinds = chosen_kinds(names or [])
    if not kinds:
        say("nothing cached")
        return
    size = _megabytes(sum(kind.size_bytes for kind in kinds))
    listed = ", ".join(kind.name for kind in kinds)
    if not yes:
        if not _is_interactive():
            raise ConfigError(f"cache clear: would delete {size} ({listed}); repeat with --yes")
        typer.confirm(f"Delete {size} ({listed})?", abort=True)
    for kind in kinds:
        clear_kind(kind)
    print(f"deleted {size} ({listed})")


def _is_interactive() -> bool:
    """Return whether a person can answer a question."""
    return sys.stdin.isatty()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
