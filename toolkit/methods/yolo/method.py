"""The method `yolo`, and what `yolo-world` does alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from toolkit import ultralytics_env
from toolkit.data.images import read_rgb
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import ConfigError, RunError
from toolkit.methods.base import Exported, Labels, Method
from toolkit.methods.size import note_parameters
from toolkit.methods.yolo import network, training
from toolkit.methods.yolo.alarms import false_alarms
from toolkit.methods.yolo.checkpoint import check_family, load_network
from toolkit.methods.yolo.prompts import PromptBank
from toolkit.methods.yolo.settings import YoloSettings
from toolkit.methods.yolo.training_data import (
    check_split,
    flip_probabilities,
    rotation_degrees,
    symmetry_of,
    write_training_data,
)
from toolkit.methods.yolo.views import PLAIN, View, allowed_views
from toolkit.methods.yolo.workers import Recipe
from toolkit.prediction import Prediction
from toolkit.runs.run import Run

S = TypeVar("S", bound=YoloSettings)


class Detector(Method[S]):
    """What both detectors do alike.

    The image-level score is the highest box score, and 0.0 for an image without any box above the
    confidence floor of 0.001 in any view. Fused over views a box may score less than that: what one
    of eight views alone sees scores an eighth. What is learned are boxes, but masks are used to
    make them: a turned image has a tight box only with the outline, and defects are cut out by
    their masks.
    """

    labels: ClassVar[Labels] = "mask"
    score_description: ClassVar[str] = "highest box score"
    world: ClassVar[bool]

    def fit(self, split: Split, run: Run) -> None:
        """Train, measuring validation mAP after each epoch; an interrupted training goes on.

        Raises:
            DataError: the training or validation part has no boxes, or a class name is unusable.
            ConfigError: there is no such network, or Ultralytics has no such argument.
            WeightsError: the pretrained weights cannot be had.
        """
        check_split(split, world=self.world, background=self._background())
        ultralytics_env.prepare()
        self._check_settings(run)
        state, checkpoint = training.progress_of(run)
        if state in ("trained", "finished"):
            self._finish(run, checkpoint if state == "trained" else None)
            return
        bank = self._answers(split, run, resumed=checkpoint is not None)
        start = network.SCRATCH if checkpoint else self._start(run)
        settings = self.settings
        data = write_training_data(
            split,
            run.path / "data",
            backgrounds=settings.backgrounds,
            image_size=settings.image_size,
            copy_paste=settings.copy_paste,
            paste_least=settings.paste_least,
            paste_beside=settings.paste_beside,
            seed=run.seed,
            background=self._background(),
        )
        name = split.dataset.name
        symmetry = flip_probabilities(settings.flips, dataset_name=name)
        symmetry["degrees"] = rotation_degrees(settings.degrees, dataset_name=name)
        arguments = training.arguments(
            settings, run=run, data=data, symmetry=symmetry, freeze=self._frozen()
        )
        if checkpoint is not None:
            run.log(f"going on from {checkpoint.name}")
            arguments["resume"] = str(checkpoint)
        with ultralytics_env.logged(run.log), bank:
            trainer = self._trainer(arguments, start=start.path, run=run)
            title = f"{run.method} {run.path.name}"
            training.train(trainer, run=run, title=title, bank=self._bank_file(run))
        note_parameters(run, load_network(self._checkpoint(run)))
        self._after_training(run)

    def _finish(self, run: Run, last: Path | None) -> None:
        """Do what comes after the last epoch; from its checkpoint, if not even that was stored."""
        from toolkit.methods.yolo.resuming import finish

        if last is None:
            run.log("training was finished before; nothing to do")
        else:
            run.log(f"training had come to its end before it was stopped; keeping {last.name}")
            with ultralytics_env.logged(run.log):
                finish(run.weights, source=last)
        training.conclude(run)
        note_parameters(run, load_network(self._checkpoint(run)))
        self._after_training(run)

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield the boxes of each image, in its own pixels, and the highest score.

        Raises:
            RunError: the run has no trained weights.
            DataError: an image cannot be read.
        """
        from toolkit.methods.yolo.detect import detect

        device = one_device(run.device)
        detector = self._detector(run, device=device)
        settings, views = self.settings, self._views(run)

        def predictions() -> Iterator[Prediction]:
            for sample in samples:
                boxes = detect(
                    detector,
                    read_rgb(sample.image),
                    image_size=settings.image_size,
                    nms_iou=settings.nms_iou,
                    device=device,
                    views=views,
                    background=self._background(),
                )
                score = float(boxes.scores.max()) if len(boxes) else 0.0
                yield Prediction(sample_id=sample.id, score=score, boxes=boxes)

        return predictions()

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return the best epoch, its validation mAP as Ultralytics measures it, false alarms."""
        found: dict[str, Any] = {"false_alarms": false_alarms(run, split.val, split.test)}
        rows = run.results()
        if rows:
            best = max(rows, key=lambda row: float(row["val_map50_95"]))
            found |= {
                "best_epoch": int(best["epoch"]),
                "val_map50_in_training": float(best["val_map50"]),
                "val_map50_95_in_training": float(best["val_map50_95"]),
            }
        return found

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write the network as ONNX, with its prompts inside; compare both on real images.

        Raises:
            RunError: the run has no trained weights.
            MissingExtraError: ONNX is not installed.
            DataError: an image cannot be read.
        """
        from toolkit.methods.yolo.export import export_onnx

        detector = self._detector(run, device="cpu")
        return export_onnx(
            detector,
            out,
            samples,
            image_size=self.settings.image_size,
            views=self._views(run),
            background=self._background(),
        )

    def _views(self, run: Run) -> tuple[View, ...]:
        if self.settings.views == "one":
            return (PLAIN,)
        return allowed_views(symmetry_of(run.record["data"].get("name", "")))

    def _checkpoint(self, run: Run) -> Path:
        return run.weights / f"{self.settings.kept_epoch}.pt"

    def _detector(self, run: Run, *, device: str) -> Any:
        """Read the trained network, ready to predict, and give it its vocabulary."""
        from toolkit.methods.yolo.detect import load_detector

        ultralytics_env.prepare()
        path = self._checkpoint(run)
        if not path.is_file():
            raise RunError(f"{path}: no trained weights in this run; train it again")
        detector = load_detector(path, device)
        self._set_vocabulary(detector, run)
        return detector

    def _check_settings(self, run: Run) -> None:
        settings = self.settings
        model = settings.model
        if network.is_world(model) != self.world:
            other = "yolo" if self.world else "yolo-world"
            raise ConfigError(f"model={model}: this network belongs to the method {other}")
        layers = network.model_yaml(model)
        last = len(layers["backbone"]) + len(layers["head"]) - 1
        if settings.freeze > last:
            raise ConfigError(
                f"freeze={settings.freeze}: {model} has {last + 1} layers, of which the last must "
                f"learn; freeze at most {last}"
            )
        if settings.freeze_epochs and "," in run.device:
            # What joins the gradients of several devices decides at the start whose to expect.
            raise ConfigError(
                f"freeze_epochs={settings.freeze_epochs}: layers cannot begin to learn on several "
                f"devices ({run.device}); use one device, or leave freeze_epochs out"
            )
        training.check_extra(settings.extra)

    def _start(self, run: Run) -> network.Start:
        settings = self.settings
        start = self._find_start()
        if start.path is not None:
            self._check_family(start.path)
        run.update_metadata(weights=start.name, weights_source=start.source)
        if start is network.SCRATCH:
            asked = "as asked" if settings.weights == "none" else "pretrained could not be reached"
            run.log(f"training from scratch ({asked})")
        return start

    def _find_start(self) -> network.Start:
        settings = self.settings
        if settings.init:
            return network.from_file(settings.init)
        return network.find_start(settings.model, settings.weights)

    def _check_family(self, path: Path) -> None:
        from ultralytics.nn.tasks import DetectionModel, WorldModel

        model = self.settings.model
        source = load_network(path, trust=self.settings.trust)
        kind = WorldModel if self.world else DetectionModel
        check_family(kind(network.model_yaml(model), verbose=False), source, model=model, path=path)

    def _answers(self, split: Split, run: Run, *, resumed: bool) -> AbstractContextManager[None]:
        """Answer the network's questions while it trains; refuse what has no answer before."""
        return nullcontext()

    def _bank_file(self, run: Run) -> Path | None:
        return None

    def _background(self) -> str:
        return ""

    def _frozen(self) -> Sequence[int | str]:
        return range(self.settings.freeze)

    def _prompts_to_tune(self, run: Run) -> PromptBank | None:
        return None

    def _after_training(self, run: Run) -> None:
        """Keep what was learned beside the network's weights; may be called again."""

    def _trainer(self, arguments: dict[str, Any], *, start: Path | None, run: Run) -> Any:
        from toolkit.methods.yolo.precision import use_bfloat16
        from toolkit.methods.yolo.trainers import YoloTrainer, YoloWorldTrainer

        trainer = (YoloWorldTrainer if self.world else YoloTrainer)(overrides=arguments)
        settings = self.settings
        bfloat16 = use_bfloat16(settings.precision, device=run.device)
        run.update_metadata(precision="bfloat16" if bfloat16 else "float32")
        recipe = Recipe(
            model=settings.model,
            start=start,
            head_lr_factor=settings.head_lr_factor,
            bn_momentum=settings.bn_momentum,
            bfloat16=bfloat16,
            trust=settings.trust,
            freeze_epochs=settings.freeze_epochs,
            tuned_prompts=self._prompts_to_tune(run),
        )
        trainer.follow(recipe, weights=run.weights)
        return trainer

    def _set_vocabulary(self, detector: Any, run: Run) -> None:
        """Give a text-driven detector its prompts."""


def one_device(device: str) -> str:
    """Return the device that predicts: the first of those that train (`cuda:0,1`)."""
    return device.split(",")[0]


class Yolo(Detector[YoloSettings]):
    """A detector with a fixed set of classes, fine-tuned on the defects' boxes."""

    name: ClassVar[str] = "yolo"
    Settings: ClassVar[type] = YoloSettings
    world: ClassVar[bool] = False
