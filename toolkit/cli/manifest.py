"""`toolkit manifest FOLDER|s3://…`: a list of images in shards, for toolkit predict."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.cli.common import say
from toolkit.errors import ConfigError


def manifest_command(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Folders, s3://… addresses, or - for standard input."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the manifest.")] = Path("manifest"),
    form: Annotated[
        Literal["parquet", "jsonl"], typer.Option("--format", help="Kind of the shards.")
    ] = "parquet",
    shard_rows: Annotated[
        int, typer.Option("--shard-rows", min=1, help="Addresses of a shard.")
    ] = 100_000,
) -> None:
    """Write the addresses of all images, streaming, for toolkit predict RUN MANIFEST."""
    from toolkit.inference.manifest import write_manifest
    from toolkit.storage import addresses_of

    if places.count("-") > 1:
        raise ConfigError("-: standard input can be read once only")
    addresses = chain.from_iterable(addresses_of(place) for place in places)
    manifest = write_manifest(addresses, out, form=form, shard_rows=shard_rows)
    say(f"{manifest.rows} images in {len(manifest.shards)} shards: {out}")
