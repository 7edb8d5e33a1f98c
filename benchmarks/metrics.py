"""Pixel-level metrics side by side: ours, pyaupro (exact), adeval (binned) and anomalib (binned).

Every contender scores the same seeded maps in a process of its own, on the same number of threads,
the maps lying in memory. Printed are the median time, the memory that scoring took on top of the
maps (Linux), and how far AUPRO is from the exact value: the curve of pyaupro, with the points of
tied scores joined as MVTec's script does and pyaupro's fast code does not.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --size 300 --images 20
    python benchmarks/metrics.py --anomalib-python other-venv/bin/python
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.3
OURS, EXACT, BINNED, OTHER = "toolkit", "pyaupro (exact)", "adeval (1,000 bins)", "anomalib"
MODULES = {EXACT: "pyaupro", BINNED: "adeval", OTHER: "anomalib"}


def make_maps(n: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return smooth anomaly maps float32[n, size, size] and masks, a quarter of them good.

    Masks are one to three ellipses, in all about 7 % of a defect image as in MVTec's bottle. Maps
    are made as patch methods make them: distances on a coarse grid, higher on defects by an amount
    that differs from image to image, enlarged and smoothed. Pixel AUROC is 0.99 and AUPRO 0.97, as
    such methods reach on bottle.
    """
    import cv2

    rng = np.random.default_rng(0)
    maps = np.empty((n, size, size), dtype=np.float32)
    masks = np.zeros((n, size, size), dtype=bool)
    for index in range(n):
        if index >= n // 4:
            drawn = np.zeros((size, size), dtype=np.uint8)
            for _ in range(int(rng.integers(1, 4))):
                centre = tuple(int(c) for c in rng.integers(size // 5, size - size // 5, 2))
                axes = tuple(int(a) for a in rng.integers(size // 16, size // 7, 2))
                cv2.ellipse(drawn, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            masks[index] = drawn > 0
        grid = cv2.resize(masks[index].astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
        noise = rng.gamma(9.0, 0.05, size=(64, 64)).astype(np.float32)
        grid = 1 + cv2.GaussianBlur(noise, (0, 0), 1) + grid * np.float32(rng.uniform(0.05, 0.6))
        large = cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)
        maps[index] = cv2.GaussianBlur(large, (0, 0), size / 56)
    return maps, masks


Values = dict[str, float]
Scorer = Callable[..., Values]


def ours(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> Scorer:
    from toolkit.metrics import pixel_metrics

    pairs = list(zip(maps, masks, strict=True))

    def score() -> Values:
        metrics = pixel_metrics(pairs, limits=[LIMIT])
        return {"aupro": metrics.aupro[LIMIT], "auroc": metrics.auroc}  # type: ignore[dict-item]

    return score


def pyaupro_exact(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> Scorer:
    import torch
    from pyaupro import PerRegionOverlap

    preds, target = torch.from_numpy(maps), torch.from_numpy(masks.astype(np.uint8))

    def area(fpr: NDArray[np.float64], pro: NDArray[np.float64]) -> float:
        # The end point is interpolated as in the protocol; pyaupro's own area leaves that out.
        inside = int(np.searchsorted(fpr, LIMIT, side="right"))
        x = np.concatenate(([0.0], fpr[:inside], [LIMIT]))
        y = np.concatenate(([0.0], pro[:inside], [np.interp(LIMIT, fpr, pro)]))
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / (2 * LIMIT))

    def score(*, join_ties: bool = False) -> Values:
        metric = PerRegionOverlap(thresholds=None, changepoints_only=False)
        metric.update(preds, target)
        fpr, pro = (curve.numpy() for curve in metric.compute())
        if join_ties:
            falling = np.sort(maps.ravel())[::-1]
            last = np.append(falling[1:] != falling[:-1], True)
            return {"aupro": area(fpr[last], pro[last])}
        return {"aupro": area(fpr, pro)}

    return score


def adeval_binned(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> Scorer:
    if not hasattr(np, "trapz"):
        # adeval 1.1.0 calls a name that NumPy 2.4 no longer has.
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
    from adeval import auroc_aupr_aupro

    targets = masks.astype(np.uint8)

    def score() -> Values:
        auroc, _, aupro = auroc_aupr_aupro(maps, targets)
        return {"aupro": float(aupro), "auroc": auroc}

    return score


def anomalib_binned(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> Scorer:
    import torch
    from anomalib.metrics.aupro import _AUPRO

    preds, target = torch.from_numpy(maps), torch.from_numpy(masks)

    def score() -> Values:
        metric = _AUPRO(fpr_limit=LIMIT)
        metric.update(preds, target)
        return {"aupro": float(metric.compute())}

    return score


SCORERS = {OURS: ours, EXACT: pyaupro_exact, BINNED: adeval_binned, OTHER: anomalib_binned}


def memory_mib(field: str) -> float:
    """Return a field of this process's status in MiB; 0 where there is no such file."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)


def measure(contender: str, args: argparse.Namespace) -> None:
    """Score in this process and print the result as JSON."""
    maps, masks = make_maps(args.images, args.size)
    score = SCORERS[contender](maps, masks)
    start_mib = memory_mib("VmRSS")
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # makes the peak start from here
    seconds, cpu = [], []
    for _ in range(args.repeats):
        wall, spent = time.perf_counter(), time.process_time()
        values = score()
        seconds.append(time.perf_counter() - wall)
        cpu.append(time.process_time() - spent)
    mib = memory_mib("VmHWM") - start_mib
    if contender == EXACT:
        values["joined"] = SCORERS[EXACT](maps, masks)(join_ties=True)["aupro"]
    result = {
        "seconds": statistics.median(seconds),
        "cpu": statistics.median(cpu),
        "mib": mib,
        "values": values,
    }
    print(json.dumps(result))


def run(contender: str, args: argparse.Namespace) -> dict[str, Any] | str:
    """Measure in a process of its own; return the result, or why there is none."""
    python, repeats = sys.executable, args.repeats
    if contender == OTHER and args.anomalib_python:
        python = args.anomalib_python
    elif contender in MODULES and importlib.util.find_spec(MODULES[contender]) is None:
        return f"left out: PyPI package {MODULES[contender]} is not installed"
    if contender in (EXACT, OTHER):
        repeats = min(repeats, args.slow_repeats)
    threads = str(args.threads)
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    command = [python, __file__, "--contender", contender, "--repeats", str(repeats)]
    command += ["--images", str(args.images), "--size", str(args.size)]
    environment = {**os.environ, **limits, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "repeats": repeats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=83)
    parser.add_argument("--size", type=int, default=900)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow-repeats", type=int, default=5, help="for pyaupro and anomalib")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--anomalib-python", help="interpreter of an environment with anomalib")
    parser.add_argument("--contender", choices=list(SCORERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure(args.contender, args)
        return
    pixels = args.images * args.size**2 / 1e6
    print(f"{args.images} maps of {args.size}x{args.size} ({pixels:.1f} M pixels), ", end="")
    print(f"{args.threads} thread(s), NumPy {np.__version__}")
    results = {contender: run(contender, args) for contender in SCORERS}
    exact = results[EXACT]
    print(f"{'':22}{'median s':>10}{'CPU s':>8}{'MiB':>7}  AUPRO@{LIMIT}     off by   AUROC")
    for contender, result in results.items():
        if isinstance(result, str):
            print(f"{contender:22}{result}")
            continue
        values = result["values"]
        off = "-"
        if not isinstance(exact, str):
            off = f"{abs(values['aupro'] - exact['values']['joined']):.1e}"
        auroc = f"{values['auroc']:.9f}" if "auroc" in values else "-"
        print(
            f"{contender:22}{result['seconds']:10.2f}{result['cpu']:8.2f}{result['mib']:7.0f}"
            f"  {values['aupro']:.9f}{off:>10}   {auroc}  (median of {result['repeats']})"
        )


if __name__ == "__main__":
    main()
