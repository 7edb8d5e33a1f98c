"""A bank of PatchCore behind an index (`--index ivf-pq`) beside an exact search.

    python benchmarks/patchcore_index.py mvtec/bottle mvtec/screw --patches 10000 100000 1000000

The patches are those of the good training images of all folders, as they are and flipped, with
PatchCore's default network and whitening, of its shallow layers or of its deep ones; the queries
are those of test images of the first folder. Prints one JSON line per size: recall@1 (how often
the distance is that of the nearest patch of all), the mean excess of the distance, milliseconds per
image, and megabytes that each bank holds in memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.methods.features.whitening import fit_whitening
from toolkit.methods.scorers.depths import depths_of, rows_of
from toolkit.methods.scorers.indexed_bank import IndexedBank
from toolkit.methods.scorers.memory_bank import MemoryBank
from toolkit.methods.scorers.patchcore import PatchCore, PatchCoreSettings
from toolkit.progress import track
from toolkit.runs.run import Run

_QUERY_IMAGES = 2
_SAME = 1.001  # of the exact distance: features are kept in half precision


def main() -> None:
    """Embed the images once, then build and search the banks of each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--patches", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depth", choices=["shallow", "deep"], default="shallow")
    options = parser.parse_args()
    settings = PatchCoreSettings()
    run = Run(Path("none"), {"seed": 0, "device": "cpu", "metadata": {}})
    extractor = PatchCore(settings).extractor(run)
    datasets = [load_dataset(place) for place in options.data]
    good = [s.image for d in datasets for s in d.samples if "/train/good/" in str(s.image)]
    test = [s.image for s in datasets[0].samples if "/test/" in str(s.image)]
    test = test[:: len(test) // _QUERY_IMAGES][:_QUERY_IMAGES]
    most = max(options.patches)
    depths = depths_of(extractor)[:1] if options.depth == "shallow" else depths_of(extractor)[1:]

    def grids(image: Any) -> list[torch.Tensor]:
        patches = extractor(image)
        return [rows_of(one.grid(patches, extractor.grid_hw)) for one in depths]

    with torch.inference_mode():
        banks = _embedded(good, grids, len(depths), most)
        queries = list(zip(*(grids(read_rgb(path)) for path in test), strict=True))
        for depth, rows, asked in zip(depths, banks, queries, strict=True):
            generator = torch.Generator().manual_seed(0)
            rows = rows[torch.randperm(len(rows), generator=generator)]
            matrix = fit_whitening(
                rows[:100_000].float(), depth.channels, shrinkage=settings.whitening or 0, seed=0
            )
            for count in options.patches:
                row = {"depth": options.depth, "threads": torch.get_num_threads()}
                row |= _compared(rows[:count], matrix, asked, options.repeats)
                print(json.dumps(row), flush=True)


def _embedded(good: list[Path], grids: Any, depths: int, most: int) -> list[torch.Tensor]:
    """Return up to `most` patches of each depth, in half precision."""
    kept: list[list[torch.Tensor]] = [[] for _ in range(depths)]
    held = [0] * depths

    def images() -> Iterator[Any]:
        for flip in (None, 0, 1, (0, 1)):
            for path in good:
                pixels = read_rgb(path)
                yield pixels if flip is None else np.ascontiguousarray(np.flip(pixels, flip))

    for image in track(images(), "features", total=4 * len(good)):
        for i, rows in enumerate(grids(image)):
            if held[i] < most:
                kept[i].append(rows.half())
                held[i] += len(rows)
        if min(held) >= most:
            break
    return [torch.cat(parts) for parts in kept]


def _compared(rows: torch.Tensor, matrix: torch.Tensor, asked: Any, repeats: int) -> dict[str, Any]:
    exact = MemoryBank(rows, matrix)
    expected = [exact.distances(queries) for queries in asked]
    exact_ms = _milliseconds(exact, asked, repeats)
    exact_mb = _megabytes(exact.features, exact._compared, exact._half_squares)
    del exact
    began = time.perf_counter()
    bank = IndexedBank(rows, matrix)
    learned_s = time.perf_counter() - began
    found = torch.cat([bank.distances(queries) for queries in asked])
    wanted = torch.cat(expected)
    return {
        "patches": len(rows),
        "dimensions": rows.shape[1],
        "queries_per_image": len(asked[0]),
        "recall_at_1": round(float((found <= wanted * _SAME).float().mean()), 4),
        "mean_excess": round(float(found.sum() / wanted.sum() - 1), 4),
        "exact_ms": exact_ms,
        "index_ms": _milliseconds(bank, asked, repeats),
        "exact_mb": exact_mb,
        "index_mb": _megabytes(bank.features, bank.state()["index"]),
        "learn_index_s": round(learned_s, 1),
    }


def _milliseconds(bank: MemoryBank, asked: Any, repeats: int) -> float:
    seconds = []
    for queries in [*asked] * repeats:
        began = time.perf_counter()
        bank.distances(queries)
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 1)


def _megabytes(*tensors: torch.Tensor) -> int:
    return round(sum(t.numel() * t.element_size() for t in tensors) / 1e6)


if __name__ == "__main__":
    main()
