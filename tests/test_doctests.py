"""The examples in docstrings run and print what they claim."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = (
    "toolkit.array_cache", "toolkit.boxes", "toolkit.config", "toolkit.d4",
    "toolkit.decisions.calibration", "toolkit.decisions.costs", "toolkit.decisions.drift",
    "toolkit.decisions.outcomes", "toolkit.decisions.page", "toolkit.errors", "toolkit.files",
    "toolkit.line.answers", "toolkit.line.ledger", "toolkit.line.sinks",
    "toolkit.metrics.bootstrap", "toolkit.progress",
    "toolkit.weights.checkpoint", "toolkit.weights.resolve",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
