"""The command line as a test calls it."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from toolkit.cli.main import app


def run(*words: object) -> Any:
    """Call the toolkit; what is wrong with the program itself is raised."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
