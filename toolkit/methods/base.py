"""The interface of all methods: `Method` learns, the `Predictor` that it loads predicts.

A new method is one package with a `Method`, its `Settings` and a `Predictor`, one YAML in
`configs/`, and one line in the registry. Nothing else changes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError, RunError
from toolkit.prediction import Boxes, Prediction
from toolkit.runs.run import Run
from toolkit.runtime.prompts import PromptError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from toolkit.runtime.answer import Answer
    from toolkit.runtime.steps import Steps

S = TypeVar("S")

Labels = Literal["none", "image", "box", "mask"]


Engine: TypeAlias = "Callable[..., Sequence[NDArray[np.float32]]]"
"""A network in an inference engine: from the inputs of its `Graph`, in their order, to its outputs.

That of `Predictor.graph` has one input, an image (1, H, W, 3)."""


Outputs: TypeAlias = "Sequence[NDArray[np.float32]]"
"""Of a network, in the order of its `Graph`."""


@dataclass(frozen=True)
class SharedNetwork:
    """What a network needs that is kept by its weights, such as SAM's image encoder.

    Its engine files are kept once for all runs that have it.

    Attributes:
        key: hash of its weights, and of what it computes with them.
        inputs: makes inputs to compare engines on, each one array per input of the network.
        distance: what the outputs of an engine lose against those of torch in float32, both for
            all of these inputs, in what counts in the end.
        tolerance: the largest distance that passes.
        checked: what is compared, in words.
    """

    key: str
    inputs: Callable[[], Sequence[tuple[NDArray[Any], ...]]]
    distance: Callable[[Sequence[Outputs], Sequence[Outputs]], float]
    tolerance: float
    checked: str


@dataclass(frozen=True)
class Graph:
    """The network of a predictor, for inference engines.

    Attributes:
        module: in evaluation mode, on the CPU: from tensors to a tuple of float32 tensors.
        example: an example of each input, by name, in their order. That of `Predictor.graph` is
            `image`, an RGB image of the network's input size, uint8 (1, H, W, 3).
        outputs: names of the outputs.
        free: of an input, by name, the axes whose size may differ from the example's.
        float32_only: whether fewer digits of its outputs would not do.
        shared: what it needs where it is the same in many runs; None where it is a run's own.
    """

    module: nn.Module
    example: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...]
    free: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    float32_only: bool = False
    shared: SharedNetwork | None = None


class Predictor(ABC):
    """A trained model in memory, ready to predict decoded images.

    Everything that can be prepared (weights, banks, fused layers) is prepared when it is made, so
    that a call costs the prediction alone. It keeps nothing of earlier images.

    Class attributes:
        batch_size: images that go through the network together where the caller has several; 1
            where a batch is no faster than one image after the other.
        precision: what torch computes in where no engine is used, `float32` or `bfloat16`.

    Attributes:
        engine: what runs the network of `graph` instead of torch; None for torch.
        parallel: whether several threads may predict at once, and gain by it.
    """

    batch_size: int = 1
    precision: str = "float32"
    engine: Engine | None = None
    parallel: bool = False

    @abstractmethod
    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return one prediction per image, in order.

        Args:
            images: RGB, uint8 arrays (H, W, 3), of any sizes.
        """

    def graph(self) -> Graph | None:
        """Return the network for an inference engine; None where it runs in torch alone."""
        return None

    def steps(self) -> dict[str, Any] | None:
        """Return what lies around the network of `graph`, as JSON values of `make_steps`.

        None where this needs torch; such a predictor has no export that runs without.
        """
        return None

    def with_engine(self, engine: Engine, name: str = "") -> Predictor:
        """Return a predictor whose network of `graph` runs in an engine.

        Args:
            engine: the network.
            name: engine and precision, such as `openvino float32`, by which outputs are kept.
        """
        steps = self.steps()
        if steps is not None:
            return EnginePredictor(steps, engine)
        other = copy.copy(self)
        other.engine = engine
        return other

    def parts(self) -> Mapping[str, Graph]:
        """Return the networks that it has besides that of `graph`, by name, each a shared one."""
        return {}

    def prompters(self) -> Mapping[str, Predictor]:
        """Return the predictors of other runs that it asks, by the role of their run."""
        return {}

    def with_parts(
        self, engines: Mapping[str, Engine], prompters: Mapping[str, Predictor]
    ) -> Predictor:
        """Return a predictor that runs `parts` in engines, and has other prompters.

        Args:
            engines: of some of the parts; the others stay in torch.
            prompters: all of them.
        """
        return self


class EnginePredictor(Predictor):
    """A network in an engine with the steps around it; it needs no torch, and any thread may call.

    Args:
        steps: as of `Predictor.steps`.
        engine: the network.
        parts: further networks, see `Predictor.parts`.
        prompters: other predictors, see `Predictor.prompters`.
    """

    parallel = True

    def __init__(
        self,
        steps: Mapping[str, Any],
        engine: Engine,
        parts: Mapping[str, Engine] | None = None,
        prompters: Mapping[str, Predictor] | None = None,
    ) -> None:
        from toolkit.runtime.steps import make_steps

        answers = {role: partial(_first_prediction, one) for role, one in (prompters or {}).items()}
        self.engine, self._steps = engine, make_steps(steps, parts, answers)

    @classmethod
    def of_steps(cls, steps: Steps, engine: Engine) -> EnginePredictor:
        """Return the predictor of steps that are made already."""
        predictor = cls.__new__(cls)
        predictor.engine, predictor._steps = engine, steps
        return predictor

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return one prediction per image; see `Predictor.predict`."""
        assert self.engine is not None
        try:
            return [to_prediction(self._steps.predict(image, self.engine)) for image in images]
        except PromptError as error:
            raise DataError(str(error)) from error


def _first_prediction(predictor: Predictor, image: NDArray[np.uint8]) -> Prediction:
    return predictor.predict([image])[0]


def to_prediction(answer: Answer) -> Prediction:
    """Return the answer of `toolkit.runtime` as a prediction."""
    return Prediction(
        score=answer.score,
        class_probabilities=answer.class_probabilities,
        boxes=None if answer.boxes is None else Boxes(*answer.boxes),
        anomaly_map=answer.anomaly_map,
        mask=answer.mask,
    )


@dataclass(frozen=True)
class Exported:
    """Files that a method has exported, and how far their outputs are from the run's.

    Attributes:
        files: the files written, relative to the output folder.
        max_difference: largest absolute difference between outputs of the export and of the run.
        tolerance: the largest difference that passes.
        checked: what was compared, on what: "anomaly maps of 4 images".
        no_threshold: why the run's threshold does not fit the exported outputs; empty if it does.
    """

    files: tuple[str, ...]
    max_difference: float
    tolerance: float
    checked: str
    no_threshold: str = ""


class Method(ABC, Generic[S]):
    """Something that learns from a split and then tells how defective an image is.

    Class attributes:
        name: as on the command line.
        Settings: frozen dataclass; each field has a default and is declared with
            `toolkit.config.setting`.
        labels: what it needs to know of training defects: nothing, the image's class, boxes, masks.
        score_description: in a few words, where its image-level score comes from.
        min_defects: training images of each defect type without which it cannot learn; 0 where it
            learns from good images, or makes defects of its own.
        inputs: roles of other runs that it reads, such as `prompt_run`.
        resources: what a training occupies on a cluster, unless the benchmark file says otherwise:
            `cpus`, `gpus`, `memory` in bytes.
        has_defect_bank: whether `extend` takes defective images too.
    """

    name: ClassVar[str]
    Settings: ClassVar[type]
    labels: ClassVar[Labels]
    score_description: ClassVar[str]
    min_defects: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ()
    resources: ClassVar[Mapping[str, float]] = {"cpus": 1}
    has_defect_bank: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def seen_images(self) -> frozenset[str]:
        """Return the contents (SHA-256) of images that its settings make it start from.

        A split that is made for it does not hold them out.
        """
        return frozenset()

    @abstractmethod
    def fit(self, split: Split, run: Run) -> None:
        """Learn from `split.train` (choose by `split.val`) and leave all state in `run.weights`.

        It records `weights` (name of the pretrained weights) and `weights_source` in the run's
        metadata. Called on an interrupted run, it continues where it was stopped.
        """

    @abstractmethod
    def load(self, run: Run) -> Predictor:
        """Return the run's model, ready to predict.

        Works from the run directory alone, so a finished run predicts in another process; it writes
        nothing into it.

        Raises:
            WeightsError: the run's weights are missing, damaged or of another network.
        """

    def extend(
        self,
        base: Run,
        run: Run,
        good: Sequence[Path],
        defects: Sequence[tuple[Path, Path]] = (),
    ) -> None:
        """Leave in `run` the model of `base`, extended by images without a training.

        Args:
            base: a finished run of this method.
            run: a new run of the same settings.
            good: good images.
            defects: defective images and their masks, where the method `has_defect_bank`.

        Raises:
            RunError: the method cannot be extended.
        """
        raise RunError(
            f"{base.path}: {self.name} does not learn from feedback at once; train it again with "
            "the labelled images"
        )

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return figures of the method's own (JSON values), such as IoU under true prompts."""
        return {}

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write files for other programs into the folder `out`; compare both on real images.

        Raises:
            RunError: the method has no such export.
            MissingExtraError: ONNX is not installed.
        """
        raise RunError(f"{run.path}: {self.name} has no files for other programs; use: --to onnx")
