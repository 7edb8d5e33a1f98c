"""Measure how much memory PatchCore takes for many training images, which are streamed.

    python benchmarks/patchcore_memory.py mvtec/bottle --images 10000

The good training images of the category are named again and again until there are enough: each is
read, embedded and sampled as if it were new. Prints one line per thousand images, then JSON;
the exit status is 1 where the peak is above 4 GB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings, parse_overrides, settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.methods.scorers import patchcore
from toolkit.runs.environment import environment, peak_memory_bytes, seed_everything
from toolkit.runs.run import Run

_EVERY = 1000
_LIMIT_MB = 4096


def main() -> None:
    """Parse the options, fit once, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("--images", type=int, default=10_000, help="training images to stream")
    parser.add_argument("--threads", type=int, default=2, help="torch and OpenCV threads")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()

    import cv2
    import torch

    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    seed_everything(0)
    dataset = load_dataset(options.data)
    split = make_plan(dataset, protocol="official").fold(dataset, 0)
    good = [s for s in split.train if not s.is_defect]
    many = tuple(dataclasses.replace(good[i % len(good)], id=f"{i}") for i in range(options.images))
    settings = build_settings(
        patchcore.PatchCore.Settings, parse_overrides(options.set), source="--set"
    )
    growth: list[dict[str, Any]] = []
    patchcore.track = _watched(growth)  # type: ignore[attr-defined]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(
            Path(folder), method="patchcore", settings=settings_dict(settings), split={}, data={}
        )
        patchcore.PatchCore(settings).fit(dataclasses.replace(split, train=many), run)
    record = {
        "environment": environment(),
        "settings": settings_dict(settings),
        "images": options.images,
        "metadata": run.metadata,
        "fit_seconds": time.perf_counter() - started,
        "peak_memory_mb": peak_memory_bytes() / 2**20,
        "growth": growth,
    }
    print(json.dumps(record, indent=2))
    if record["peak_memory_mb"] > _LIMIT_MB:
        sys.exit(f"peak memory {record['peak_memory_mb']:.0f} MB: above {_LIMIT_MB}")  # status 1


def _watched(growth: list[dict[str, Any]]) -> Any:
    def track(items: Any, title: str, total: int | None = None) -> Iterator[Any]:
        for i, item in enumerate(items, 1):
            yield item
            if i % _EVERY == 0:
                growth.append({"images": i, "peak_mb": round(peak_memory_bytes() / 2**20)})
                print(growth[-1], file=sys.stderr, flush=True)

    return track


if __name__ == "__main__":
    main()
