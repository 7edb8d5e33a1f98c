"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from toolkit import __version__
from toolkit.cli.balance import balance_app
from toolkit.cli.benchmark import benchmark_command
from toolkit.cli.cache import cache_app
from toolkit.cli.compare import compare_command
from toolkit.cli.convert import convert_command
from toolkit.cli.dataset import dataset_app
from toolkit.cli.demo import demo_command
from toolkit.cli.doctor import doctor_command
from toolkit.cli.export import export_command
from toolkit.cli.leaderboard import evaluate_command, leaderboard_command
from toolkit.cli.predict import predict_command
from toolkit.cli.report import report_command
from toolkit.cli.train import finetune_app, train_app
from toolkit.cli.weights import weights_app
from toolkit.errors import ToolkitError

app = typer.Typer(
    name="toolkit",
    help="From one folder of inspection images with masks to one honest leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo_command)
app.add_typer(dataset_app, name="dataset")
app.command("convert")(convert_command)
app.add_typer(finetune_app, name="finetune")
app.add_typer(train_app, name="train")
app.command("predict")(predict_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("benchmark")(benchmark_command)
app.add_typer(balance_app, name="balance")
app.command("leaderboard")(leaderboard_command)
app.command("compare")(compare_command)
app.command("report")(report_command)
app.add_typer(weights_app, name="weights")
app.add_typer(cache_app, name="cache")
app.command("doctor")(doctor_command)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if version:
        print(f"toolkit {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of the user's is one line and an exit status."""
    words = sys.argv[1:]
    debug = "--debug" in words
    try:
        app(args=["--debug", *(w for w in words if w != "--debug")] if debug else words)
    except ToolkitError as error:
        if debug:
            raise
        print(f"toolkit: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("toolkit: interrupted; go on with --resume", file=sys.stderr)
        sys.exit(130)
