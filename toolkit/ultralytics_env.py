"""Import Ultralytics so that nothing is sent, downloaded, installed or written outside our cache.

As shipped it queries a name server, sends analytics, reports runs to services that it finds
installed, downloads fonts and sample weights, installs packages, and keeps its settings in the
user's home. Everything that imports `ultralytics` calls `prepare` first.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from toolkit.home import cache_dir
from toolkit.runs.environment import usable_cores

_ENVIRONMENT = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    # Checkpoints are read without running code inside them.
    "ULTRALYTICS_SAFE_LOAD": "true",
}
_API_KEY = "ULTRALYTICS_API_KEY"  # with it, a trainer uploads runs and checkpoints
_SERVICES = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
# Ultralytics downloads these two where they are missing.
_FONTS = ("Arial.ttf", "Arial.Unicode.ttf")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def prepare() -> None:
    """Set up the environment and import the base of Ultralytics; cheap when called again.

    Also works where something else imported Ultralytics before: values that it has read from the
    environment by then are changed in memory.
    """
    folder = cache_dir() / "ultralytics"
    if "ultralytics.utils" not in sys.modules:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["YOLO_CONFIG_DIR"] = str(folder)
    os.environ.update(_ENVIRONMENT)
    # Ultralytics would set the threads of the whole process to all cores but one, or to one.
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    os.environ.pop(_API_KEY, None)

    from ultralytics import utils

    _place_fonts(Path(utils.USER_CONFIG_DIR))
    quiet_settings: dict[str, Any] = dict.fromkeys(("sync", *_SERVICES), False)
    quiet_settings |= {"api_key": "", "openai_api_key": ""}
    # The update of `dict`: the class's own one writes the file, which may be the user's.
    dict.update(utils.SETTINGS, {k: v for k, v in quiet_settings.items() if k in utils.SETTINGS})
    utils.ONLINE = False
    utils.AUTOINSTALL = False
    utils.VERBOSE = False

    # These modules copied the names above when they were imported.
    from ultralytics.nn import tasks
    from ultralytics.utils import checks, events, torch_utils

    checks.ONLINE = False
    checks.AUTOINSTALL = False
    tasks.SAFE_LOAD = True
    events.events.enabled = False
    torch_utils.NUM_THREADS = int(threads.split(",")[0])


@contextmanager
def logged(write: Callable[[str], None]) -> Iterator[None]:
    """Send Ultralytics' log to `write`, line by line and without colours; call `prepare` first.

    Its progress bars, which no setting turns off, are dropped: this project has its own.
    """
    from ultralytics.utils import LOGGER

    handlers, level = list(LOGGER.handlers), LOGGER.level
    LOGGER.handlers[:] = [_LineHandler(write)]
    LOGGER.setLevel(logging.INFO)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
            yield
    finally:
        LOGGER.handlers[:] = handlers
        LOGGER.setLevel(level)


class _LineHandler(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        for line in _ANSI.sub("", record.getMessage()).splitlines():
            if line.strip():
                self._write(line.rstrip())


def _place_fonts(folder: Path) -> None:
    """Put a free font in place of Arial, which Ultralytics would download."""
    missing = [folder / name for name in _FONTS if not (folder / name).exists()]
    if not missing:
        return
    import matplotlib

    source = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        shutil.copyfile(source, path)
