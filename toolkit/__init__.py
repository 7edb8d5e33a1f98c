"""From one folder of inspection images with masks to trained models and one honest leaderboard.

    import toolkit

    run = toolkit.train("patchcore", "mvtec/bottle", protocol="official")
    model = toolkit.load_model(run)
    for result in model.predict("new-images/", stream=True):
        print(result.summary())

Importing this package loads neither torch nor any other library; each name is imported when it is
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.benchmarking.study import benchmark
    from toolkit.data.layouts import load_dataset
    from toolkit.data.protocols import make_split
    from toolkit.data.splits import Split
    from toolkit.data.types import Dataset, Sample
    from toolkit.decisions.recommend import recommend
    from toolkit.formats.convert import convert
    from toolkit.inference.model import load_model
    from toolkit.inference.result import Result
    from toolkit.leaderboards.board import leaderboard
    from toolkit.prediction import Prediction
    from toolkit.reporting.write import report
    from toolkit.runs.evaluate import evaluate
    from toolkit.runs.run import Run
    from toolkit.training import train

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "Prediction",
    "Result",
    "Run",
    "Sample",
    "Split",
    "benchmark",
    "convert",
    "evaluate",
    "leaderboard",
    "load_dataset",
    "load_model",
    "make_split",
    "recommend",
    "report",
    "train",
]

_MODULES = {
    "Dataset": "toolkit.data.types",
    "Prediction": "toolkit.prediction",
    "Result": "toolkit.inference.result",
    "Run": "toolkit.runs.run",
    "Sample": "toolkit.data.types",
    "Split": "toolkit.data.splits",
    "benchmark": "toolkit.benchmarking.study",
    "convert": "toolkit.formats.convert",
    "evaluate": "toolkit.runs.evaluate",
    "leaderboard": "toolkit.leaderboards.board",
    "load_dataset": "toolkit.data.layouts",
    "load_model": "toolkit.inference.model",
    "make_split": "toolkit.data.protocols",
    "recommend": "toolkit.decisions.recommend",
    "report": "toolkit.reporting.write",
    "train": "toolkit.training",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
