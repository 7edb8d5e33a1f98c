"""`toolkit verify PATH…`: are files still what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.common import say


def verify_command(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Runs, folders of runs, converted sets, exports, the cache, split files.",
        ),
    ],
) -> None:
    """Compare files with the checksums that were stored with them, and name those that differ.

    One line per damaged file, with the fix; the exit status is 1 then.
    """
    from toolkit.verification.verify import verify

    found = verify(places)
    for line in found.unchecked:
        say(line)
    for damage in found.damaged:
        print(damage)
    count = f"{found.files:,} files checked, {len(found.damaged):,} damaged"
    print(f"{count}, {len(found.unchecked):,} without checksums" if found.unchecked else count)
    if found.damaged:
        raise typer.Exit(1)
