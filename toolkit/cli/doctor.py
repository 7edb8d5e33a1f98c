"""`toolkit doctor`: what this installation has, for a bug report or a first look."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show versions, hardware, folders, optional packages and the weights that are here."""
    import json

    from toolkit.doctor import examine

    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for heading, facts in report.items():
        print(f"{heading}:")
        for key, value in facts.items():
            print(f"  {key}: {value}")
