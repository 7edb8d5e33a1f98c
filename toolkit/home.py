"""The folders that the toolkit writes to, and the files that ship with it.

Home is `$TOOLKIT_HOME`, else the nearest parent of the working folder that holds `configs/` and
`weights/` (a checkout), else `~/.cache/toolkit`.
"""

from __future__ import annotations

import os
from pathlib import Path

from toolkit.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def home() -> Path:
    """Return the folder that holds `datasets/`, `weights/` and `cache/`."""
    named = os.environ.get("TOOLKIT_HOME")
    if named:
        return Path(named).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "configs").is_dir() and (folder / "weights").is_dir():
            return folder
    return Path.home() / ".cache" / "toolkit"


def datasets_dir() -> Path:
    """Return the folder of downloaded and generated data sets."""
    return home() / "datasets"


def weights_dir() -> Path:
    """Return the folder of fetched checkpoints."""
    return home() / "weights"


def cache_dir() -> Path:
    """Return the folder of arrays that can be computed again (embeddings, features)."""
    return home() / "cache"


def resource(relative: str) -> Path:
    """Return a file or folder that ships with the package, such as `configs/yolo/default.yaml`.

    A copy under `home()` takes precedence over the installed one.

    Raises:
        ConfigError: there is neither.
    """
    # Last, because the parent of an installed package has folders of others (`datasets`).
    candidates = (home() / relative, _PACKAGE / "_resources" / relative, _PACKAGE.parent / relative)
    for path in candidates:
        if path.exists():
            return path
    raise ConfigError(f"{relative}: shipped file not found; reinstall inspection-toolkit")
