"""Runs commands of the toolkit in forked children, and kills them where it is told to.

    python kill_server.py          # reads one request per line, answers one line each

Importing torch takes seconds, a fork milliseconds: so one process that has imported all serves
all requests. In a child, every call that changes the file system counts as a step, and before the
step that is asked for the child sends itself SIGKILL. No torch code runs before the fork, since
threads do not survive it.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

STEPS = (
    "replace", "rename", "mkdir", "rmdir", "unlink", "remove", "link", "symlink", "fsync", "write",
)  # fmt: skip
_write = os.write


def main() -> None:
    """Answer until the input ends."""
    import torch  # noqa: F401
    import ultralytics  # noqa: F401

    from toolkit.cli.main import main as command  # noqa: F401

    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command.

    Args:
        request: `cwd`, `argv`; `step` before which the child dies, or `seconds` after which it is
            killed; neither for a run that is left alone.

    Returns:
        `code` (-9 if it was killed), `steps` it took (of a run that came to its end), `seconds`.
    """
    read, write = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.close(read)
        _command(request, write)
    os.close(write)
    if request.get("seconds") is not None:
        time.sleep(request["seconds"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as answered:
        told = answered.read()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "steps": int(told) if told else None,
        "seconds": time.monotonic() - started,
    }


def _command(request: dict[str, Any], answer: int) -> None:
    """Run the command in this child, and never return."""
    code = 1
    try:
        os.chdir(request["cwd"])
        log = os.open("command.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        taken = _count(request.get("step"))
        from toolkit.cli.main import main as command

        sys.argv = ["toolkit", *request["argv"]]
        try:
            command()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        _write(answer, str(taken()).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    finally:
        os._exit(code)


def _count(last: int | None) -> Callable[[], int]:
    """Count steps from now on, and die before the one that is `last`; return their counter."""
    taken = 0

    def step() -> None:
        nonlocal taken
        if taken == last:
            os.kill(os.getpid(), signal.SIGKILL)
        taken += 1

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            step()
            return function(*words, **named)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    opened, opened_low = builtins.open, os.open

    def open_file(file: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            step()
        return opened(file, mode, *words, **named)

    def open_low(path: Any, flags: int, *words: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            step()
        return opened_low(path, flags, *words, **named)

    builtins.open = io.open = open_file  # type: ignore[assignment]
    os.open = open_low
    return lambda: taken


if __name__ == "__main__":
    main()
