"""Runs commands of the toolkit in forked children, and kills them where it is told to.

    python kill_server.py          # reads one request per line, answers one line each

Importing torch takes seconds, a fork milliseconds: so one process that has imported all serves
all requests. In a child, every call that changes the file system counts as a step, and before the
step that is asked for the child sends itself SIGKILL. No torch code runs before the fork, since
threads do not survive it.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.ultralytics_env import prepare

STEPS = (
    "replace", "rename", "mkdir", "rmdir", "unlink", "remove", "link", "symlink", "fsync", "write",
)  # fmt: skip
IMPORTED = (
    "torch", "torchvision", "timm", "ultralytics", "ultralytics.models.yolo", "openvino",
    "sklearn.linear_model", "scipy.ndimage", "matplotlib.figure", "toolkit.cli.main",
)  # fmt: skip
"""What commands import; without it each child spends its first seconds on them."""
_write = os.write


def main() -> None:
    """Answer until the input ends."""
    with contextlib.redirect_stdout(sys.stderr):  # answers alone are written to standard output
        prepare()  # or Ultralytics writes, and says so, into the home of whoever runs this
        for name in IMPORTED:
            importlib.import_module(name)

    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        together = "commands" in request
        print(json.dumps(serve_together(request) if together else serve(request)), flush=True)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command.

    Args:
        request: `cwd`, `argv`; `step` before which the child dies, or `seconds` after which it is
            killed; neither for a run that is left alone. `remove`: a folder that vanishes before
            `step`, where the child lives on. `limits`: resource limits by their names, `AS` counted
            from what is in use. `rights`: false for a process without those of root. `env`, `log`.

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


def serve_together(request: dict[str, Any]) -> dict[str, Any]:
    """Run several commands at the same time.

    Args:
        request: `cwd`; `commands`, each a list of words; `delays`, the seconds after which each
            starts, counted from the moment at which all processes are there.

    Returns:
        `codes`, in the order of the commands; what each wrote is in `command-<number>.log`.
    """
    gate, opener = os.pipe()
    children = []
    for number, words in enumerate(request["commands"]):
        child = os.fork()
        if not child:
            os.close(opener)
            os.read(gate, 1)  # returns when the parent closes its end
            time.sleep(request["delays"][number])
            one = {"cwd": request["cwd"], "argv": words, "log": f"command-{number}.log"}
            _command(one, os.open(os.devnull, os.O_WRONLY))
        children.append(child)
    os.close(gate)
    os.close(opener)
    return {"codes": [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]}


def _command(request: dict[str, Any], answer: int) -> None:
    """Run the command in this child, and never return."""
    code = 1
    try:
        os.chdir(request["cwd"])
        log = os.open(request.get("log", "command.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(request.get("env", {}))
        taken = _count(request.get("step"), request.get("remove"))
        _limit(request.get("limits", {}), rights=request.get("rights", True))
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


def _limit(limits: dict[str, int], *, rights: bool) -> None:
    """Set resource limits, and give up the rights of root over files of any mode."""
    import ctypes
    import resource

    for name, value in limits.items():
        if name == "AS":
            with Path("/proc/self/statm").open() as file:
                value += int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if not rights:
        head = (ctypes.c_uint32 * 2)(0x20080522, 0)
        ctypes.CDLL(None, use_errno=True).capset(head, (ctypes.c_uint32 * 6)())


def _count(last: int | None, remove: str | None) -> Callable[[], int]:
    """Count steps from now on; before the one that is `last` die, or remove a folder.

    Returns:
        The number of steps so far.
    """
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        if taken - 1 == last:
            if remove is None:
                os.kill(os.getpid(), signal.SIGKILL)
            for _ in range(10):  # other threads may write into it meanwhile
                if not subprocess.run(
                    ["rm", "-rf", str(remove)], stderr=subprocess.DEVNULL
                ).returncode:
                    break

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
