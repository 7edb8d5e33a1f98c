"""`toolkit cache`: what has been computed once and kept, its size, and how to delete it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from toolkit.cli.common import say

cache_app = typer.Typer(
    help="Cached embeddings, features and resized images: list, clear.", no_args_is_help=True
)


@cache_app.command("list")
def list_cache() -> None:
    """Show what the cache holds, by kind, with its size."""
    from rich.console import Console
    from rich.table import Table

    from toolkit.cache import cache_kinds
    from toolkit.home import cache_dir

    kinds = cache_kinds()
    if not kinds:
        print(f"{cache_dir()}: nothing cached yet")
        return
    table = Table("kind", "holds", "files", "size", title=str(cache_dir()), title_justify="left")
    for column in (2, 3):
        table.columns[column].justify = "right"
    for kind in kinds:
        table.add_row(kind.name, kind.what, f"{kind.files:,}", _megabytes(kind.size_bytes))
    table.add_section()
    total = sum(kind.size_bytes for kind in kinds)
    table.add_row("all", "", f"{sum(kind.files for kind in kinds):,}", _megabytes(total))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


@cache_app.command("clear")
def clear_cache(
    names: Annotated[
        list[str] | None, typer.Argument(help="Kinds, see: toolkit cache list; all by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete cached files; runs, data and weights stay, and what is needed is computed again."""
    from toolkit.cache import chosen_kinds, clear_kind
    from toolkit.errors import ConfigError

    kinds = chosen_kinds(names or [])
    if not kinds:
        say("nothing cached")
        return
    size = _megabytes(sum(kind.size_bytes for kind in kinds))
    what = ", ".join(kind.name for kind in kinds)
    if not yes:
        if not _asks():
            raise ConfigError(f"cache clear: would delete {size} ({what}); repeat with --yes")
        typer.confirm(f"Delete {size} ({what})?", abort=True)
    for kind in kinds:
        clear_kind(kind)
    print(f"deleted {size} ({what})")


def _asks() -> bool:
    """Whether a person is there to answer."""
    return sys.stdin.isatty()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
