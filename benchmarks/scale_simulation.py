"""A cluster in a discrete simulation (simpy): from 1 to 1,000 workers, with losses and stragglers.

    python benchmarks/scale_simulation.py trainings --task-s 4.3 --start-s 9 [--check 1:107,2:58]
    python benchmarks/scale_simulation.py images --image-ms 12 --read-mb 1.5

Two kinds of work. `trainings`: each of 10,000 tasks costs a start, its data (copied once per node
through the storage) and its training. `images`: 1,000,000,000 images in blocks; each block is read
through the storage, decoded, predicted and written. Blocks are simulated in groups, so that any
number of images takes the same time. A worker is lost at a random time (exponential); what it
worked on begins again on another one after the time in which a loss is noticed. Task times are
lognormal. The storage gives each reader an equal share of its rate.

`--check workers:seconds,…` compares makespans of real runs with those of the simulation, for the
number of tasks in `--tasks`. Prints one JSON line per number of workers.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass, replace
from typing import Any

import simpy

WORKERS = (1, 2, 10, 30, 100, 300, 1000)
_UNITS = 20_000  # units of work that are simulated at most


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        units: pieces of work.
        work_s: of one unit on one core: training, or decoding and prediction.
        read_mb: read through the storage per unit.
        start_s: of a worker, once.
        data_mb: copied once per worker before its first unit.
        spread: standard deviation of the logarithm of `work_s`.
        storage_mb_s: of the storage, for all readers together.
        storage_latency_s: of each access.
        dispatch_s: of the one process that hands out units, per unit.
        loss_h: mean hours until a worker is lost.
        notice_s: until a loss is noticed and replaced.
        price_h: of a worker and hour.
    """

    units: int
    work_s: float
    read_mb: float
    start_s: float
    data_mb: float
    spread: float
    storage_mb_s: float
    storage_latency_s: float
    dispatch_s: float
    loss_h: float
    notice_s: float
    price_h: float


def simulate(plan: Plan, workers: int, *, seed: int = 0) -> dict[str, Any]:
    """Return makespan, cost and losses of one simulated run."""
    env, draw = simpy.Environment(), random.Random(seed)
    store = simpy.Resource(env, capacity=1)  # transfers one after the other: the same total rate
    driver = simpy.Resource(env, capacity=1)
    todo, state = [plan.units], {"lost": 0, "done": 0, "busy": 0.0, "wait": 0.0}
    factor = plan.spread * plan.spread / 2

    def read(mb: float) -> Any:
        if mb > 0:
            begun = env.now
            with store.request() as turn:
                yield turn
                yield env.timeout(mb / plan.storage_mb_s)
            yield env.timeout(plan.storage_latency_s)
            state["wait"] += env.now - begun

    def worker() -> Any:
        life = draw.expovariate(1 / (plan.loss_h * 3600))
        yield env.timeout(plan.start_s)
        yield from read(plan.data_mb)
        while todo[0] > 0:
            todo[0] -= 1
            with driver.request() as turn:
                yield turn
                yield env.timeout(plan.dispatch_s)
            yield from read(plan.read_mb)
            seconds = plan.work_s * math.exp(draw.gauss(0, plan.spread) - factor)
            if env.now + seconds > life:  # lost in the middle: the unit begins again elsewhere
                yield env.timeout(max(life - env.now, 0) + plan.notice_s)
                todo[0] += 1
                state["lost"] += 1
                life = env.now + draw.expovariate(1 / (plan.loss_h * 3600))
                yield env.timeout(plan.start_s)
                yield from read(plan.data_mb)
                continue
            yield env.timeout(seconds)
            state["busy"] += seconds
            state["done"] += 1

    for _ in range(workers):
        env.process(worker())
    env.run()
    if state["done"] != plan.units:
        raise RuntimeError(f"{state['done']} of {plan.units} units are done")
    return {
        "workers": workers,
        "hours": round(env.now / 3600, 3),
        "seconds": round(env.now, 1),
        "efficiency": round(state["busy"] / (env.now * workers), 3),
        "cost": round(workers * env.now / 3600 * plan.price_h, 2),
        "lost": state["lost"],
        "waited_for_storage": round(state["wait"] / (env.now * workers), 3),
    }


def grouped(plan: Plan) -> Plan:
    """Join units so that at most 20,000 are simulated; the total of all costs stays."""
    size = max(1, math.ceil(plan.units / _UNITS))
    return replace(
        plan,
        units=math.ceil(plan.units / size),
        work_s=plan.work_s * size,
        read_mb=plan.read_mb * size,
        dispatch_s=plan.dispatch_s * size,
        storage_latency_s=plan.storage_latency_s * size,
        spread=plan.spread / math.sqrt(size),
    )


def main() -> None:
    """Read the figures, simulate, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["trainings", "images"])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=1_000_000_000)
    parser.add_argument("--block-rows", type=int, default=1_000)
    parser.add_argument("--task-s", type=float, default=60.0, help="one training")
    parser.add_argument("--image-ms", type=float, default=12.0, help="decode, network and write")
    parser.add_argument("--read-mb", type=float, default=1.5, help="of one image")
    parser.add_argument("--data-mb", type=float, default=150.0, help="of one data set")
    parser.add_argument("--start-s", type=float, default=8.0, help="of one worker")
    parser.add_argument("--spread", type=float, default=0.25)
    parser.add_argument("--dispatch-ms", type=float, default=3.0, help="of one task or block")
    parser.add_argument("--storage-mb-s", type=float, default=5_000.0)
    parser.add_argument("--storage-latency-ms", type=float, default=30.0)
    parser.add_argument("--loss-h", type=float, default=500.0)
    parser.add_argument("--notice-s", type=float, default=13.0)
    parser.add_argument("--price-h", type=float, default=0.05)
    parser.add_argument("--check", default="", help="workers:seconds,… of real runs")
    options = parser.parse_args()
    is_training = options.kind == "trainings"
    plan = Plan(
        units=options.tasks if is_training else math.ceil(options.images / options.block_rows),
        work_s=options.task_s if is_training else options.image_ms * options.block_rows / 1000,
        read_mb=0.0 if is_training else options.read_mb * options.block_rows,
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
    if options.check:
        for pair in options.check.split(","):
            workers, seconds = pair.split(":")
            found = simulate(grouped(plan), int(workers))["seconds"]
            error = round(100 * (found / float(seconds) - 1), 1)
            print(json.dumps({"workers": int(workers), "real_s": float(seconds),
                              "simulated_s": found, "error_percent": error}))  # fmt: skip
        return
    for workers in WORKERS:
        print(json.dumps(simulate(grouped(plan), workers)))


if __name__ == "__main__":
    main()
