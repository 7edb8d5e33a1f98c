"""The label-budget study: how many labelled defects each entry of a grid is run with."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.data.splits import Budget
from toolkit.errors import ConfigError
from toolkit.methods.registry import method_class


def parse_budgets(words: Sequence[str], *, source: str) -> tuple[Budget, ...]:
    """Read the budgets of a benchmark file: whole numbers and `all`, sorted, each once.

    Raises:
        ConfigError: something else, or a negative number.
    """
    numbers = set()
    for word in words:
        if word != "all" and not word.isdecimal():
            raise ConfigError(
                f"{source}: budgets={word}: give numbers of defect images per type, and 'all'"
            )
        if word != "all":
            numbers.add(int(word))
    return (*sorted(numbers), *(("all",) if "all" in words else ()))


def budgets_of(method: str, budgets: Sequence[Budget]) -> tuple[Budget | None, ...]:
    """Return the budgets that a method is run with.

    What learns from good images only is run once, with 0; what needs defects is not run with fewer
    than it needs.

    Args:
        method: name of the method.
        budgets: those of the study; empty where there is none.

    Returns:
        `(None,)` where there is no study: all training images, and no word of a budget.
    """
    if not budgets:
        return (None,)
    cls = method_class(method)
    if cls.labels == "none":
        return (0,)
    return tuple(k for k in budgets if k == "all" or k >= cls.min_defects)


def left_out(entry: str, method: str, budgets: Sequence[Budget]) -> str | None:
    """Say in one line which budgets an entry is not run with; None if there are none."""
    missing = [str(k) for k in budgets if k not in budgets_of(method, budgets)]
    if not missing or method_class(method).labels == "none":
        return None
    least = method_class(method).min_defects
    return f"{entry}: not run with k = {', '.join(missing)} (needs {least} defects of each type)"
