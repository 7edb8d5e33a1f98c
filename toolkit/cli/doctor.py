"""`toolkit doctor`: describe the installation, for a bug report."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print versions, hardware, folders, optional packages and available weights."""
    import json

    from toolkit.doctor import describe_installation

    report = describe_installation()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for heading, values in report.items():
        print(f"{heading}:")
        for key, value in values.items():
            print(f"  {key}: {value}")
