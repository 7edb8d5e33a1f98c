"""The one interface of all methods.

A new method is one module with a `Method` and its `Settings`, one YAML in `configs/`, and one line
in the registry. Nothing else changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import RunError
from toolkit.runs.export import Exported
from toolkit.runs.prediction import Prediction
from toolkit.runs.run import Run

S = TypeVar("S")

Labels = Literal["none", "image", "box", "mask"]


class Method(ABC, Generic[S]):
    """Something that learns from a split and says of an image how defective it is.

    Class attributes:
        name: as on the command line.
        Settings: frozen dataclass; each field has a default and `metadata={"help": …}`.
        labels: what it needs to know of training defects: nothing, the image's class, boxes, masks.
        scoring: in a few words, where its image-level score comes from.
        least_defects: training images of each defect type without which it cannot learn; 0 where
            it learns from good images, or makes defects of its own.
        inputs: roles of other runs that it reads, such as `prompts_from`.
    """

    name: ClassVar[str]
    Settings: ClassVar[type]
    labels: ClassVar[Labels]
    scoring: ClassVar[str]
    least_defects: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def learnt(self) -> frozenset[str]:
        """Return the contents (sha256) of images that its settings make it start from.

        A split that is made for it does not hold them out.
        """
        return frozenset()

    @abstractmethod
    def fit(self, split: Split, run: Run) -> None:
        """Learn from `split.train` (choose by `split.val`) and leave all state in `run.weights`.

        It notes `weights` (name of the pretrained weights) and `weights_source` in the run's
        facts. Called on an interrupted run, it goes on where it was stopped.
        """

    @abstractmethod
    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield one prediction per sample, in order, one image at a time.

        Works from `run.weights` alone, so a finished run can predict in another process. The
        engine times each step of the iterator, so nothing may be cached from earlier images.
        """

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return figures of the method's own (JSON values), such as IoU under true prompts."""
        return {}

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write the run as ONNX into the folder `out`; compare both on real images.

        Raises:
            RunError: the method has no such export.
            MissingExtraError: ONNX is not installed.
        """
        raise RunError(f"{run.path}: {self.name} has no ONNX export; use: toolkit predict")
