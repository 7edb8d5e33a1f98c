"""A cluster in a discrete simulation (simpy): from 1 to 1,000 workers, with losses and stragglers.

    python benchmarks/scale_simulation.py trainings --check DATA
    python benchmarks/scale_simulation.py images --check RUN IMAGES
    python benchmarks/scale_simulation.py trainings --task-s 60 --start-s 9

Two kinds of work. `trainings`: each of 10,000 tasks costs a start, its data (copied once per node
through the storage) and its training. `images`: 1,000,000,000 images in blocks; each block is read
through the storage, decoded, predicted and written. Blocks are simulated in groups, so that any
number of images takes the same time. A worker is lost at a random time (exponential); what it
worked on begins again on another one after the time in which a loss is noticed. Task times are
lognormal. The storage gives each reader an equal share of its rate.

With `--check` the terms of the cost are measured first (see `scale_probe.py`), the simulation
predicts how long one and two workers take, both are run for real, and the tables take the measured
terms. The machine must be quiet: OMP_NUM_THREADS=1, and nothing beside it. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import scale_probe
from scale_model import Plan, grouped, simulate

WORKERS = (1, 2, 10, 30, 100, 300, 1000)
_NEVER_H = 1e9
_DRAWS = 20


def main() -> None:
    """Read the figures or measure them, simulate, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["trainings", "images"])
    parser.add_argument("--check", nargs="+", type=Path, help="DATA, or RUN IMAGES")
    parser.add_argument("--check-tasks", type=int, default=12)
    parser.add_argument("--check-images", type=int, default=1_500)
    parser.add_argument("--check-block-rows", type=int, default=25)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=1_000_000_000)
    parser.add_argument("--block-rows", type=int, default=1_000)
    parser.add_argument("--task-s", type=float, help="one training; 60 if it is not measured")
    parser.add_argument("--image-ms", type=float, default=12.0, help="decode, network and write")
    parser.add_argument("--read-mb", type=float, default=1.5, help="of one image")
    parser.add_argument("--data-mb", type=float, default=150.0, help="of one data set")
    parser.add_argument("--start-s", type=float, default=8.0, help="of one worker")
    parser.add_argument("--before-s", type=float, default=5.0, help="once, before the workers")
    parser.add_argument("--spread", type=float, default=0.25)
    parser.add_argument("--dispatch-ms", type=float, default=3.0, help="of one task or block")
    parser.add_argument("--storage-mb-s", type=float, default=5_000.0)
    parser.add_argument("--storage-latency-ms", type=float, default=30.0)
    parser.add_argument("--loss-h", type=float, default=500.0)
    parser.add_argument("--notice-s", type=float, default=13.0)
    parser.add_argument("--price-h", type=float, default=0.05)
    options = parser.parse_args()
    plan = _plan(options)
    if options.check:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        check = _check_trainings if options.kind == "trainings" else _check_images
        plan = check(options, plan)
    print(json.dumps({"plan": asdict(plan)}))
    for workers in WORKERS:
        print(json.dumps(simulate(grouped(plan), workers)))


def _plan(options: Any) -> Plan:
    is_training = options.kind == "trainings"
    return Plan(
        units=options.tasks if is_training else math.ceil(options.images / options.block_rows),
        work_s=(
            options.task_s or 60.0 if is_training else options.image_ms * options.block_rows / 1000
        ),
        read_mb=0.0 if is_training else options.read_mb * options.block_rows,
        before_s=options.before_s,
        start_s=options.start_s,
        data_mb=options.data_mb if is_training else 50.0,
        spread=options.spread,
        storage_mb_s=options.storage_mb_s,
        storage_latency_s=options.storage_latency_ms / 1000,
        dispatch_s=options.dispatch_ms / 1000,
        loss_h=options.loss_h,
        notice_s=options.notice_s,
        price_h=options.price_h,
    )


def _check_trainings(options: Any, plan: Plan) -> Plan:
    """Compare with real trainings; return the plan with what was measured."""
    (data,) = options.check
    terms, real = scale_probe.measure_trainings(data, tasks=options.check_tasks)
    _compare(terms, options.check_tasks, plan, real)
    work = options.task_s or terms.unit_s * terms.slower
    data_mb = sum(f.stat().st_size for f in data.rglob("*") if f.is_file()) / 1e6
    return replace(
        plan, work_s=work, before_s=terms.before_s, start_s=terms.start_s * terms.slower,
        data_mb=data_mb, spread=max(terms.spread, plan.spread),
    )  # fmt: skip


def _check_images(options: Any, plan: Plan) -> Plan:
    """Compare with real predictions; return the plan with what was measured."""
    run, images = options.check
    rows, block_rows = options.check_images, options.check_block_rows
    terms, real = scale_probe.measure_images(run, images, rows=rows, block_rows=block_rows)
    _compare(terms, math.ceil(rows / block_rows), plan, real)
    per_image = (terms.unit_s - terms.parts_s["read"]) / block_rows * terms.slower
    sizes = [f.stat().st_size for f in images.rglob("*") if f.suffix in (".png", ".webp", ".jpg")]
    return replace(
        plan, work_s=per_image * options.block_rows, before_s=terms.before_s,
        start_s=terms.start_s * terms.slower,
        read_mb=statistics.fmean(sizes) / 1e6 * options.block_rows,
    )  # fmt: skip


def _compare(terms: Any, units: int, plan: Plan, real: dict[int, float]) -> None:
    """Print the terms, and per number of workers the simulated and the real seconds."""
    print(json.dumps({"measured": {**asdict(terms), "before_s": terms.before_s}}))
    for workers, seconds in real.items():
        slower = terms.slower if workers > 1 else 1.0
        own = replace(
            plan, units=units, work_s=terms.unit_s * slower, read_mb=0.0, data_mb=0.0,
            before_s=terms.before_s, start_s=terms.start_s * slower, spread=terms.spread,
            loss_h=_NEVER_H,
        )  # fmt: skip
        found = statistics.fmean(
            simulate(own, workers, seed=seed)["seconds"] for seed in range(_DRAWS)
        )
        print(
            json.dumps({"workers": workers, "units": units, "simulated_s": round(found, 1),
                        "real_s": round(seconds, 1), "ratio": round(found / seconds, 3)}),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
