"""The `toolkit` command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated, Any, NoReturn

import typer

from toolkit import __version__
from toolkit.cli.benchmark import benchmark_command
from toolkit.cli.cache import cache_app
from toolkit.cli.calibrate import calibrate_command
from toolkit.cli.compare import compare_command
from toolkit.cli.convert import convert_command
from toolkit.cli.dataset import dataset_app
from toolkit.cli.demo import demo_command
from toolkit.cli.doctor import doctor_command
from toolkit.cli.drift import drift_command
from toolkit.cli.export import export_command
from toolkit.cli.feedback import feedback_command
from toolkit.cli.imbalance import imbalance_app
from toolkit.cli.leaderboard import evaluate_command, leaderboard_command
from toolkit.cli.ledger import ledger_app
from toolkit.cli.manifest import manifest_command
from toolkit.cli.merge import merge_command
from toolkit.cli.predict import predict_command
from toolkit.cli.recommend import recommend_command
from toolkit.cli.report import report_command
from toolkit.cli.serve import serve_command
from toolkit.cli.stress import stress_command
from toolkit.cli.task import task_command
from toolkit.cli.train import finetune_app, train_app
from toolkit.cli.verify import verify_command
from toolkit.cli.watch import watch_command
from toolkit.cli.weights import weights_app
from toolkit.errors import ToolkitError, is_out_of_memory, printable

app = typer.Typer(
    name="toolkit",
    help="Compare methods for visual inspection on one folder of images, from data to leaderboard.",
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
app.command("manifest")(manifest_command)
app.command("calibrate")(calibrate_command)
app.command("drift")(drift_command)
app.command("stress")(stress_command)
app.command("serve")(serve_command)
app.command("watch")(watch_command)
app.add_typer(ledger_app, name="ledger")
app.command("feedback")(feedback_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("benchmark")(benchmark_command)
app.command("task")(task_command)
app.command("merge")(merge_command)
app.add_typer(imbalance_app, name="imbalance")
app.command("leaderboard")(leaderboard_command)
app.command("compare")(compare_command)
app.command("recommend")(recommend_command)
app.command("report")(report_command)
app.add_typer(weights_app, name="weights")
app.add_typer(cache_app, name="cache")
app.command("verify")(verify_command)
app.command("doctor")(doctor_command)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of errors.")] = False,
) -> None:
    if version:
        print(f"toolkit {__version__}")
        raise typer.Exit


# Some releases of Typer bring their own copy of click, so the class is found through Typer.
_UsageError: Any = typer.BadParameter.__base__


_FIXES = {
    errno.ENAMETOOLONG: "check the name",
    errno.EMFILE: "allow more open files: ulimit -n 1024",
}
"""What the user can do about errors of the system that may come from anywhere."""


def main() -> None:
    """Run the command line; an error that the user can fix is one line and exit status 2.

    An unexpected exception is a bug and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold any bytes
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:]
    debug = "--debug" in words
    try:
        # Not standalone: Typer would frame an error in a box of several lines.
        status = app(
            args=["--debug", *(w for w in words if w != "--debug")] if debug else words,
            standalone_mode=False,
        )
        sys.exit(status if isinstance(status, int) else 0)
    except _UsageError as error:
        if not error.format_message():  # no arguments at all: the help
            error.show()
            sys.exit(2)
        command = f"; see: {error.ctx.command_path} --help" if error.ctx else ""
        _exit(f"{error.format_message().rstrip('.')}{command}", 2)
    except ToolkitError as error:
        if debug:
            raise
        _exit(str(error), error.exit_status, details=error.details)
    except MemoryError as error:
        if debug:
            raise
        _exit(f"out of memory{_details(error)}; use smaller images or batches", 2)
    except RuntimeError as error:
        if debug or not is_out_of_memory(error):
            raise
        _exit(f"out of memory{_details(error)}; use smaller images or batches", 2)
    except ImportError as error:
        if debug or not _is_broken_library(error):
            raise
        _exit(f"{error.name or 'a library'} cannot be loaded{_details(error)}; reinstall it", 2)
    except OSError as error:
        if debug or error.errno not in _FIXES:
            raise
        _exit(f"{str(error.filename)[:80]}: {error.strerror}; {_FIXES[error.errno]}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _exit("interrupted; continue a named run or a benchmark with --resume", 130)


def _exit(message: str, status: int, *, details: str = "") -> NoReturn:
    # Names in a message may hold terminal commands.
    print(f"toolkit: {printable(' '.join(message.split()))}", file=sys.stderr)
    for line in details.splitlines():
        print(printable(line), file=sys.stderr)
    sys.exit(status)


def _details(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0][:160]
    return f" ({first})" if first else ""


def _is_broken_library(error: ImportError) -> bool:
    """Return whether the system's loader failed, which is no bug of this program."""
    text = str(error)
    return any(words in text for words in (".so", ".dll", ".dylib", "DLL load failed"))
