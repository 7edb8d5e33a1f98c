"""The method `yolo`, and what it shares with `yolo-world`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from toolkit import ultralytics_env
from toolkit.d4 import allowed_transforms
from toolkit.data.dataset_cards import symmetry_of
from toolkit.data.splits import Split
from toolkit.data.types import file_sha256
from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.base import Labels, Method
from toolkit.methods.size import note_parameters
from toolkit.methods.yolo import budget, network, training
from toolkit.methods.yolo.ddp import TrainingJob
from toolkit.methods.yolo.false_positives import false_positives
from toolkit.methods.yolo.predictor import YoloPredictor
from toolkit.methods.yolo.settings import YoloSettings
from toolkit.methods.yolo.training_data import (
    check_split,
    flips_and_rotation,
    write_training_data,
)
from toolkit.runs.run import Run
from toolkit.weights.resolve import ResolvedWeights, resolve_weights

S = TypeVar("S", bound=YoloSettings)


class Detector(Method[S]):
    """Base of both detectors.

    The image score is the highest box score, and 0.0 for an image without any box above the
    confidence floor of 0.001. Training needs boxes only, but masks make them: a turned image has a
    tight box only with the outline, and defects are pasted by their masks.
    """

    labels: ClassVar[Labels] = "mask"
    score_description: ClassVar[str] = "highest box score"
    world: ClassVar[bool]

    def fit(self, split: Split, run: Run) -> None:
        """Train, with validation mAP after each epoch; an interrupted training is resumed.

        Raises:
            DataError: the training or validation part has no boxes, or a class name is unusable.
            ConfigError: there is no such network, or Ultralytics has no such argument.
            WeightsError: the pretrained weights cannot be had.
        """
        check_split(split, world=self.world, background=self._background())
        ultralytics_env.prepare()
        self._check_settings()
        from toolkit.methods.yolo.resume import finish_checkpoints, training_state

        state, checkpoint = training_state(run)
        if state == "trained" and checkpoint is not None:
            run.log(f"training had ended before it was stopped; keeping {checkpoint.name}")
            with ultralytics_env.logged(run.log):
                finish_checkpoints(run.weights, source=checkpoint)
        elif state == "finished":
            run.log("training was finished before; nothing to do")
        else:
            self._train(split, run, checkpoint)
        training.clean_up(run)
        path = self._checkpoint(run)
        trained = network.load_network(path)
        note_parameters(run, trained)
        run.update_metadata(
            epochs_done=int(run.results()[-1]["epoch"]), checkpoint_sha256=file_sha256(path)
        )
        self._after_training(run, trained)

    def _train(self, split: Split, run: Run, checkpoint: Path | None) -> None:
        """Train from the start, or from the checkpoint of an interrupted training."""
        settings, full_size = self._with_sizes(split, run)
        embeddings = self._text_embeddings(split, run, resumed=checkpoint is not None)
        start = None if checkpoint else self._start(run)
        data = write_training_data(
            split,
            run.path / "data",
            settings,
            full_size=full_size,
            seed=run.seed,
            background=self._background(),
        )
        if not settings.epochs:
            images = sum(1 for _ in (data.parent / "images/train").iterdir())
            settings = replace(
                settings,
                epochs=budget.epochs_for(images, settings.batch, views=2 if full_size else 1),
            )
        arguments = training.train_arguments(
            settings,
            run=run,
            data=data,
            flips_and_rotation=flips_and_rotation(settings, dataset_name=split.dataset.name),
            freeze=self._frozen_layers(),
        )
        if checkpoint is not None:
            run.log(f"continuing from {checkpoint.name}")
            arguments["resume"] = str(checkpoint)
        with ultralytics_env.logged(run.log), embeddings:
            from toolkit.methods.yolo.trainer import YoloTrainer, YoloWorldTrainer

            trainer = (YoloWorldTrainer if self.world else YoloTrainer)(overrides=arguments)
            trainer.configure(self._job(run, start=start), weights=run.weights)
            training.train(trainer, run)

    def load(self, run: Run, *, device: str | None = None) -> YoloPredictor:
        """Return the run's network, its batch norms folded into the convolutions.

        Args:
            run: has trained weights.
            device: as torch names it; the run's if None.

        Raises:
            WeightsError: the weights are missing, damaged or not those that were trained.
        """
        ultralytics_env.prepare()
        device = device or first_device(run.device)
        path = self._checkpoint(run)
        if not path.is_file():
            raise WeightsError(f"{path}: missing; train again")
        if run.metadata.get("checkpoint_sha256", "") not in ("", file_sha256(path)):
            raise WeightsError(
                f"{path}: not the weights that were trained (SHA-256 differs); train again"
            )
        trained = network.load_network(path).fuse(verbose=False).to(device).eval()
        self._set_classes(trained, run)
        settings = self.settings
        symmetry = symmetry_of(run.record["data"].get("name", ""))
        flips, rotation = (symmetry.flips, symmetry.rotation) if settings.tta else ((), "none")
        return YoloPredictor(
            trained,
            image_size=self._image_size(run),
            full_size=int(run.metadata.get("full_size", 0)),
            nms_iou=settings.nms_iou,
            device=device,
            transforms=allowed_transforms(flips=flips, rotation=rotation),
            background=self._background(),
        )

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return false positives, and the best epoch with its validation mAP by Ultralytics."""
        found: dict[str, Any] = {"false_positives": false_positives(run, split.val, split.test)}
        rows = run.results()
        if rows:
            best = max(rows, key=lambda row: float(row["val_map50_95"]))
            found |= {
                "best_epoch": int(best["epoch"]),
                "val_map50_in_training": float(best["val_map50"]),
                "val_map50_95_in_training": float(best["val_map50_95"]),
            }
        return found

    def _checkpoint(self, run: Run) -> Path:
        return run.weights / f"{self.settings.checkpoint}.pt"

    def _check_settings(self) -> None:
        settings, model = self.settings, self.settings.model
        if network.is_world(model) != self.world:
            other = "yolo" if self.world else "yolo-world"
            raise ConfigError(f"model={model}: this network belongs to the method {other}")
        layers = network.model_yaml(model)
        last = len(layers["backbone"]) + len(layers["head"]) - 1
        if settings.freeze_layers > last:
            raise ConfigError(
                f"freeze_layers={settings.freeze_layers}: {model} has {last + 1} layers, of which "
                f"the last must be trained; freeze at most {last}"
            )
        training.check_ultralytics_args(settings.ultralytics_args)

    def _with_sizes(self, split: Split, run: Run) -> tuple[YoloSettings, int]:
        """Return the settings with an image size, and the size of images that are cut in tiles.

        Both are stored in the run; the second is 0 where nothing is cut.
        """
        settings, full_size = self.settings, 0
        if not settings.image_size or settings.tile:
            sides = budget.defect_sides(split.train)
            defects = sum(s.has_boxes for s in split.train) * (1 + settings.copy_paste_per_image)
            epochs = settings.epochs or budget.epochs_for(defects, settings.batch)
            bounded = budget.bounded_size(sides, images=defects, epochs=epochs)
            automatic = budget.SMALLEST if settings.tile else bounded
            settings = replace(settings, image_size=settings.image_size or automatic)
            full_size = budget.tiled_size(sides, settings.image_size) if settings.tile else 0
        tiles = f", cut from images of {full_size} pixels" if full_size else ""
        run.log(f"images of {settings.image_size} pixels{tiles}")
        run.update_metadata(image_size=settings.image_size, full_size=full_size)
        return settings, full_size

    def _image_size(self, run: Run) -> int:
        return int(run.metadata.get("image_size", self.settings.image_size))

    def _start(self, run: Run) -> Path | None:
        """Return the checkpoint to start from; None from scratch."""
        start = self._resolve_weights()
        if start.path is not None:
            source = network.load_network(start.path, allow_pickle=self.settings.allow_pickle)
            network.check_family(source, model=self.settings.model, path=start.path)
        run.update_metadata(weights=start.name, weights_source=start.source)
        if start.path is None:
            run.log(start.source + (f" ({start.reason})" if start.reason else ""))
        return start.path

    def _resolve_weights(self) -> ResolvedWeights:
        """Return the checkpoint that the settings name.

        Raises:
            WeightsError: there is none, or it is of another kind.
        """
        settings = self.settings
        start = resolve_weights(
            settings.weights,
            network.pretrained_names(settings.model),
            network=settings.model,
        )
        if start.path is not None and start.path.suffix.lower() != ".pt":
            # Ultralytics reads no other name.
            raise WeightsError(f"{start.path}: not a .pt file; rename it if Ultralytics wrote it")
        return start

    def _job(self, run: Run, *, start: Path | None) -> TrainingJob:
        from toolkit.methods.yolo.trainer import use_bfloat16

        settings = self.settings
        bfloat16 = use_bfloat16(settings.precision, device=run.device)
        run.update_metadata(precision="bfloat16" if bfloat16 else "float32")
        embeddings = self._embeddings_file(run)
        return TrainingJob(
            run=str(run.path.resolve()),
            title=f"{run.method} {run.path.name}",
            model=settings.model,
            start=None if start is None else str(start.resolve()),
            head_lr_mult=settings.head_lr_mult,
            bn_momentum=settings.bn_momentum,
            bfloat16=bfloat16,
            allow_pickle=settings.allow_pickle,
            embeddings=None if embeddings is None else str(embeddings.resolve()),
            train_embeddings=self._trains_embeddings(),
        )

    # What `yolo-world` adds.

    def _text_embeddings(
        self, split: Split, run: Run, *, resumed: bool
    ) -> AbstractContextManager[None]:
        """Return a context in which Ultralytics gets the text embeddings of the run."""
        return nullcontext()

    def _embeddings_file(self, run: Run) -> Path | None:
        return None

    def _trains_embeddings(self) -> bool:
        return False

    def _background(self) -> str:
        """Return the name of a class that stands for no defect; empty if there is none."""
        return ""

    def _frozen_layers(self) -> Sequence[int | str]:
        return range(self.settings.freeze_layers)

    def _after_training(self, run: Run, trained: Any) -> None:
        """Store what was trained beside the network's weights; may be called again."""

    def _set_classes(self, trained: Any, run: Run) -> None:
        """Give a text-driven network its classes."""


def first_device(device: str) -> str:
    """Return the device that predicts: the first of those that train (`cuda:0,1`)."""
    return device.split(",")[0]


class Yolo(Detector[YoloSettings]):
    """A detector with a fixed set of classes, fine-tuned on the defects' boxes."""

    name: ClassVar[str] = "yolo"
    Settings: ClassVar[type] = YoloSettings
    world: ClassVar[bool] = False
