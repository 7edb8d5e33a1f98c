"""Metric values: finite floats or `Undefined` with a reason, and their JSON form.

A metric is never 0 or NaN for lack of data: a category without defect images has no AUROC, and a
table must be able to show that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from toolkit.errors import ToolkitError


class MetricError(ToolkitError):
    """Scores, masks or labels cannot be scored: wrong shapes, or values that are not finite."""


@dataclasses.dataclass(frozen=True)
class Undefined:
    """A metric without a value on this data.

    Attributes:
        reason: why, as a short phrase such as "no defect images".
    """

    reason: str

    def __str__(self) -> str:
        return f"n/a ({self.reason})"


Value: TypeAlias = float | Undefined
"""A finite float, or the reason why there is none."""


def mean_of(values: Sequence[Value], *, reason: str) -> Value:
    """Return the mean of the defined values, or `Undefined(reason)` where there is none."""
    known = [value for value in values if not isinstance(value, Undefined)]
    return math.fsum(known) / len(known) if known else Undefined(reason)


_MOST = 10**30  # what is larger cannot be displayed


def to_json(metrics: Any) -> Any:
    """Turn metrics into what `json.dumps` takes.

    Dataclasses become objects in the order of their fields, mappings objects in the order of their
    keys, sequences arrays, and `Undefined` becomes `{"value": null, "reason": "…"}`. Equal metrics
    therefore give equal bytes.

    Args:
        metrics: a metric dataclass, a `Value`, or mappings and sequences of them.

    Raises:
        MetricError: a number is NaN or infinite, or an object is of another type.
    """
    if isinstance(metrics, Undefined):
        return {"value": None, "reason": metrics.reason}
    if dataclasses.is_dataclass(metrics) and not isinstance(metrics, type):
        names = [field.name for field in dataclasses.fields(metrics)]
        return {name: to_json(getattr(metrics, name)) for name in names}
    if isinstance(metrics, Mapping):
        return {str(key): to_json(metrics[key]) for key in sorted(metrics)}
    if isinstance(metrics, str | bool) or metrics is None:
        return metrics
    if isinstance(metrics, int | np.integer):
        if abs(int(metrics)) > _MOST:
            raise MetricError("a metric is a number that no computation gives")
        return int(metrics)
    if isinstance(metrics, float | np.floating):
        if not math.isfinite(metrics):
            raise MetricError(
                f"a metric is {float(metrics)}: write Undefined with a reason instead"
            )
        return float(metrics)
    if isinstance(metrics, Sequence | np.ndarray):
        return [to_json(item) for item in metrics]
    raise MetricError(f"{type(metrics).__name__} is no metric: use floats and metric dataclasses")


def value_from_json(stored: Any) -> Value:
    """Read back one value that `to_json` wrote.

    Args:
        stored: a number, or `{"value": null, "reason": "…"}`.

    Raises:
        MetricError: it is neither.
    """
    if isinstance(stored, Mapping) and stored.get("value", 0) is None:
        return Undefined(str(stored.get("reason", "no reason was stored")))
    if isinstance(stored, int | float) and not isinstance(stored, bool) and math.isfinite(stored):
        return float(stored)
    raise MetricError(
        f"{stored!r} is no metric value: expected a number or an object with a reason"
    )
