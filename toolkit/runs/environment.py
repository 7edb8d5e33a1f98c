"""Versions, hardware, memory, devices and seeds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import __version__
from toolkit.errors import ConfigError

if TYPE_CHECKING:
    import torch

_PACKAGES = (
    "torch",
    "torchvision",
    "ultralytics",
    "timm",
    "numpy",
    "opencv-python",
    "scikit-learn",
)


def environment() -> dict[str, Any]:
    """Return versions, the git commit of a checkout, and the hardware, without importing torch."""
    return {
        "toolkit": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gb": round(_memory_bytes() / 2**30, 1),
        "packages": {name: package_version(name) for name in _PACKAGES},
    }


def usable_cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor (glibc only); return whether it does.

    By default it hands large blocks back to the system at once, and the next tensor of the same
    size waits for fresh pages, which takes a fifth of a training step on a processor. Several
    threads have a heap each; only in the first one can large blocks be kept, so all share it.
    Options and numbers: mallopt(3).
    """
    library = _glibc()
    if library is None:
        return False
    never_map, heaps, keep_top = (-4, 0), (-8, 1), (-1, 2**31 - 1)
    return all(library.mallopt(*option) == 1 for option in (never_map, heaps, keep_top))


def forget_peak_memory() -> None:
    """Reset the peak, so that one run does not inherit another's (Linux only)."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)  # what `keep_freed_memory` has kept
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process, in bytes.

    Since the last `forget_peak_memory`; on other systems than Linux since the start.
    """
    with contextlib.suppress(OSError):
        # `getrusage` never reports less than the peak of the parent process.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def choose_device(wanted: str) -> str:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,1` or `mps` into a available device.

    Raises:
        ConfigError: the wanted device is not available.
    """
    import torch

    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    numbered = [f"{name}:{i}" for name, count in counts.items() for i in range(count)]
    there = [*(name for name, count in counts.items() if count), "cpu", *numbered]
    if wanted == "auto":
        return there[0]
    first, *others = wanted.split(",")  # several cards of one kind
    named = [first, *(f"{first.split(':')[0]}:{number}" for number in others)]
    if not all(name in there for name in named) or (others and ":" not in first):
        raise ConfigError(
            f"--device {wanted}: not available here; this machine has {', '.join(there)}"
        )
    return wanted


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and set torch to deterministic algorithms."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively, so that it is faster than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Older releases of torch cannot tell; training stays in float32 there.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from; `+` marks local changes."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=12", "HEAD")
    if commit and git("status", "--porcelain", "--untracked-files=no"):
        return commit + "+"
    return commit


def _glibc() -> Any:
    """Return the C library if it is glibc, else None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def package_version(name: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
