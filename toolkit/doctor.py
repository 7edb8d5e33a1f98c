"""A description of the installation, for bug reports."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Any

from toolkit.home import home
from toolkit.runs.environment import environment

_OPTIONAL = {"onnxruntime": "onnx"}


def describe_installation() -> dict[str, dict[str, Any]]:
    """Return, by heading: versions and hardware, devices, folders, extras, weights."""
    import torch

    from toolkit.weights import local, registry

    machine = environment()
    packages = machine.pop("packages")
    folder = home()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return {
        "machine": machine,
        "packages": packages,
        "devices": {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "threads": torch.get_num_threads(),
        },
        "folders": {
            "home": str(folder),
            "free_gb": round(shutil.disk_usage(existing).free / 2**30, 1),
        },
        "optional packages": {
            name: "installed" if find_spec(name) else f"missing; extra [{extra}]"
            for name, extra in _OPTIONAL.items()
        },
        "weights": {
            name: "available" if local.locate(entry) is not None else "not fetched"
            for name, entry in registry.load().items()
        },
    }
