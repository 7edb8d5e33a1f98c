"""The discrete simulation (simpy) behind `scale_simulation.py`, and what it is told."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import simpy

_UNITS = 20_000  # units of work that are simulated at most


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        units: pieces of work.
        work_s: of one unit on one core: training, or decoding, prediction and writing.
        read_mb: read through the storage per unit.
        before_s: once, before the workers begin: connection, list of the work, the split.
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
    before_s: float
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
        yield env.timeout(plan.before_s + plan.start_s)
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
