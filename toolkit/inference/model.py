"""A finished run as a model in memory: the one way in which this project predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from toolkit.decisions.card import CalibrationCard
from toolkit.errors import ConfigError, DataError, RunError
from toolkit.inference.engines import cached_engine, check_engine, default_engine, use_engine
from toolkit.inference.plot import validation_heat_range
from toolkit.inference.result import Result
from toolkit.inference.sources import SourceImage, iterate_source
from toolkit.methods.base import EnginePredictor
from toolkit.methods.registry import load_method
from toolkit.prediction import Prediction
from toolkit.runs.environment import keep_freed_memory
from toolkit.runs.run import Run
from toolkit.runtime.exported import MANIFEST, Exported, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RGB: TypeAlias = "NDArray[np.uint8]"
OnError: TypeAlias = Callable[[DataError], None]


class Model:
    """A finished run, loaded once.

    Example:
        >>> model = toolkit.load_model("runs/patchcore/001")  # doctest: +SKIP
        >>> for result in model.predict("new-images/", stream=True):  # doctest: +SKIP
        ...     print(result.summary())

    Attributes:
        place: directory of the run, or of the exported model.
        calibration: its calibration card; None without one.
        threshold: its image-level threshold, that of the card if there is one; None if its
            validation part was empty.
        classes: names of the classes that its boxes have; empty if it does not detect.
        engine: what its network runs in: `torch`, or an engine and its precision, such as
            `openvino float32`.
    """

    def __init__(
        self,
        run: Run,
        calibration: CalibrationCard | None = None,
        *,
        engine: str | None = None,
        streams: int = 1,
    ) -> None:
        engine = default_engine() if engine is None else engine
        check_engine(engine)
        metrics = run.metrics()  # refuses a run that is not finished
        if calibration is not None:
            calibration.check_model(run)
        keep_freed_memory()
        self._run: Run | None = run
        self.place = run.path
        self.calibration = calibration
        self.threshold: float | None = (
            metrics["thresholds"][0] if calibration is None else calibration.nok.value
        )
        self.classes = tuple(sorted(metrics.get("boxes", {}).get("ap50_by_class", {})))
        self._predictor, self.engine = cached_engine(run, engine, streams=streams) or use_engine(
            load_method(run).load(run), run, engine, streams=streams
        )

    @classmethod
    def of_export(cls, folder: Path, *, streams: int = 1) -> Model:
        """Open a folder of `toolkit export`; torch is not imported.

        Raises:
            RunError: it is damaged, or its engine is not installed.
        """
        try:
            exported = Exported.open(folder, streams=streams)
        except ModelError as error:
            raise RunError(str(error)) from error
        manifest, model = exported.manifest, cls.__new__(cls)
        model._run, model.place = None, folder
        try:
            card = manifest["calibration"]
            model.calibration = None if card is None else CalibrationCard.from_dict(card["card"])
            model.threshold = exported.threshold
            model.classes = tuple(map(str, manifest["classes"]))
            model.engine = f"{manifest['engine']} {manifest['precision']}"
            model._predictor = _ExportedPredictor(exported, folder)
            heat = manifest["heat_range"]
            model.__dict__["_heat_range"] = (
                None if heat is None else (float(heat[0]), float(heat[1]))
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RunError(f"{folder}/{MANIFEST}: damaged ({error}); export again") from error
        return model

    @property
    def run(self) -> Run:
        """The run.

        Raises:
            RunError: this is an exported model, which has none.
        """
        if self._run is None:
            raise RunError(f"{self.place}: an exported model; give the run that it was made from")
        return self._run

    @property
    def parallel(self) -> bool:
        """Whether several threads may predict at once."""
        return self._predictor.parallel

    @overload
    def __call__(self, source: Any, *, stream: Literal[False] = False) -> list[Result]: ...
    @overload
    def __call__(self, source: Any, *, stream: Literal[True]) -> Iterator[Result]: ...

    def __call__(self, source: Any, *, stream: bool = False) -> list[Result] | Iterator[Result]:
        """Predict the images of a source; see `predict`."""
        return self.predict(source, stream=True) if stream else self.predict(source)

    @overload
    def predict(
        self, source: Any, *, stream: Literal[False] = False, on_error: OnError | None = None
    ) -> list[Result]: ...
    @overload
    def predict(
        self, source: Any, *, stream: Literal[True], on_error: OnError | None = None
    ) -> Iterator[Result]: ...

    def predict(
        self, source: Any, *, stream: bool = False, on_error: OnError | None = None
    ) -> list[Result] | Iterator[Result]:
        """Predict the images of a source.

        Args:
            source: a path, a folder, a glob pattern, an array (H, W, 3) RGB or (H, W) grey of dtype
                uint8, a PIL image, or a list or generator of these.
            stream: return an iterator that holds one batch of images in memory, instead of a list.
            on_error: called with the error of an image that cannot be read, which is then left out;
                without it the error is raised.

        Raises:
            DataError: the source is empty or of no known kind, or an image cannot be read.
            RunError: a score is not finite, as with damaged weights.
        """
        results = self._predict(_decoded(iterate_source(source), on_error))
        return results if stream else list(results)

    @property
    def batch_size(self) -> int:
        """Images that go through the network together."""
        return self._predictor.batch_size

    def results(self, batch: Sequence[tuple[SourceImage, RGB]]) -> list[Result]:
        """Predict decoded images, at most `batch_size` of them together.

        Raises:
            RunError: a score is not finite, as with damaged weights.
        """
        predictions = self._predictor.predict([array for _, array in batch])
        found = []
        for (image, array), prediction in zip(batch, predictions, strict=True):
            check_finite(prediction, self.place, image.name)
            found.append(
                Result(
                    prediction=prediction,
                    image=array,
                    threshold=self.threshold,
                    name=image.name,
                    path=image.path,
                    heat_range=self._heat_range if prediction.anomaly_map is not None else None,
                    calibration=self.calibration,
                )
            )
        return found

    def _predict(self, images: Iterator[tuple[SourceImage, RGB]]) -> Iterator[Result]:
        while batch := list(islice(images, self.batch_size)):
            yield from self.results(batch)

    @cached_property
    def _heat_range(self) -> tuple[float, float] | None:
        return None if self._run is None else validation_heat_range(self._run)


def load_model(
    run: str | Path | Run,
    *,
    calibration: str | Path | CalibrationCard | None = None,
    engine: str | None = None,
    streams: int = 1,
) -> Model:
    """Load a finished run or an exported model, ready to predict.

    Example:
        >>> model = toolkit.load_model("runs/patchcore/001")  # doctest: +SKIP
        >>> model("part.png")[0].is_defect  # doctest: +SKIP
        False

    Args:
        run: the run, its directory, or a folder of `toolkit export`, which has its own engine and
            calibration.
        calibration: a calibration card of this run, or its file: its thresholds replace that of
            the run, and results have an outcome OK, REVIEW or NOK and a p-value.
        engine: what its network runs in: `torch`, `onnxruntime`, `openvino`, or `auto` for the
            fastest that is installed and agrees with torch; see docs/engines.md. `TOOLKIT_ENGINE`,
            else `auto`, if None: the engine that the run was evaluated with, on the machine where
            it was made.
        streams: images that an engine computes at a time for several threads; 1 is the fastest for
            a single image, 0 is for a service, see `open_network`.

    Raises:
        ConfigError: there is no such engine, or the method runs in torch alone.
        MissingExtraError: the engine is not installed.
        ParityError: the named engine disagrees with torch.
        RunError: no run there, not finished, or of an older schema; the card is damaged or of
            another model.
        WeightsError: its weights are missing or damaged.
    """
    engine = default_engine() if engine is None else engine
    if not isinstance(run, Run) and (Path(run) / MANIFEST).is_file():
        if calibration is not None:
            raise ConfigError(
                f"{run}: an exported model holds its calibration; use: toolkit export RUN "
                "--calibration CARD"
            )
        exported = Model.of_export(Path(run), streams=streams)
        if engine not in ("torch", "auto", exported.engine.split()[0]):
            raise ConfigError(f"{run}: was exported for {exported.engine}; export it for {engine}")
        return exported
    if isinstance(calibration, str | Path):
        calibration = CalibrationCard.read(calibration)
    opened = run if isinstance(run, Run) else Run.open(Path(run))
    return Model(opened, calibration, engine=engine, streams=streams)


class _ExportedPredictor(EnginePredictor):
    """An exported model, which anybody may have made."""

    def __init__(self, exported: Exported, folder: Path) -> None:
        self.engine, self._steps, self._folder = exported.network, exported.steps, folder

    def predict(self, images: Sequence[RGB]) -> list[Prediction]:
        """Return one prediction per image.

        Raises:
            RunError: the network does not fit what the manifest says.
        """
        try:
            return super().predict(images)
        except MemoryError:
            raise
        except Exception as error:  # each engine raises errors of its own
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise RunError(f"{self._folder}: cannot predict ({reason}); export again") from error


def _decoded(
    images: Iterator[SourceImage], on_error: OnError | None
) -> Iterator[tuple[SourceImage, RGB]]:
    for image in images:
        try:
            yield image, image.read()
        except DataError as error:
            if on_error is None:
                raise
            on_error(error)


def check_finite(prediction: Prediction, place: Path, image: str) -> None:
    """Refuse a prediction whose score is not a finite number, since no decision could be right.

    Raises:
        RunError: the score is NaN or infinite.
    """
    if not math.isfinite(prediction.score):
        raise RunError(
            f"{place}: the score of {image} is {prediction.score}; the weights are damaged or "
            "training has diverged: train again"
        )
