"""What a task occupies on a cluster, as a benchmark file says it."""

from __future__ import annotations

import math
import re
from typing import Any

from toolkit.errors import ConfigError, did_you_mean

RESOURCES = ("cpus", "gpus", "memory")
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_resources(raw: Any, *, source: str) -> dict[str, float]:
    """Return numbers by resource; memory in bytes.

    Example:
        >>> parse_resources({"cpus": 2, "memory": "1.5 GB"}, source="bench.yaml")
        {'cpus': 2.0, 'memory': 1610612736.0}

    Args:
        raw: a mapping of `cpus`, `gpus` and `memory` (`4G`, or a number of bytes).
        source: for error messages.

    Raises:
        ConfigError: an unknown resource, or no positive number; `gpus` may be 0.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: 'resources:' needs lines such as 'cpus: 2'")
    found = {}
    for key, value in raw.items():
        if key not in RESOURCES:
            hint = did_you_mean(str(key), RESOURCES)
            raise ConfigError(f"{source}: resources: unknown resource '{key}'{hint}")
        number = _memory(value) if key == "memory" else value
        valid = isinstance(number, int | float) and not isinstance(number, bool)
        if not valid or not math.isfinite(number) or number < 0 or (key != "gpus" and number == 0):
            raise ConfigError(f"{source}: resources: {key}: {value!r} is no positive number")
        found[key] = float(number)
    return found


def _memory(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _MEMORY.fullmatch(value.strip())
    return float(found[1]) * _UNITS[found[2].lower()] if found else value
