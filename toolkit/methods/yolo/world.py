"""The method `yolo-world`: a detector whose classes are text embeddings, stored as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from toolkit import ultralytics_env
from toolkit.data.dataset_cards import class_phrases
from toolkit.data.splits import Split
from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.yolo import network
from toolkit.methods.yolo.method import Detector, first_device
from toolkit.methods.yolo.predictor import YoloPredictor
from toolkit.methods.yolo.retention import (
    measure_retention,
    read_retention_data,
    why_not_measured,
)
from toolkit.methods.yolo.settings import YoloWorldSettings
from toolkit.methods.yolo.text_embeddings import (
    TextEmbeddings,
    class_embeddings,
    clip_embeddings,
    clip_or_orthonormal_embeddings,
    load_text_embeddings,
    orthonormal_embeddings,
    text_embedding_patch,
)
from toolkit.runs.run import Run

_CLASSES = "prompts.safetensors"
_PHRASES = "phrases.safetensors"
_RETENTION = "retention_classes.safetensors"
_TUNED = "tuned on"


class YoloWorld(Detector[YoloWorldSettings]):
    """A detector whose classes are text embeddings, fine-tuned on the defects' boxes.

    The embeddings are data: `weights/prompts.safetensors` of the run, one vector per class.
    """

    name: ClassVar[str] = "yolo-world"
    Settings: ClassVar[type] = YoloWorldSettings
    world: ClassVar[bool] = True

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return what `yolo` reports, and how well the base model's classes were retained."""
        return {**super().report(split, run), "retention": self._retention(run)}

    def _text_embeddings(
        self, split: Split, run: Run, *, resumed: bool
    ) -> AbstractContextManager[None]:
        # The file of the settings may have changed, or be gone, since the run began.
        stored = run.weights / _CLASSES
        if resumed and stored.is_file():
            embeddings = load_text_embeddings(stored)
        else:
            prompts = dict(class_phrases(split.dataset))
            if self._background():
                prompts[self._background()] = (self._background(),)
            phrases = self._embed(prompts, run)
            embeddings = class_embeddings(phrases, prompts)
            phrases.save(run.weights / _PHRASES)
            embeddings.save(stored)
            run.update_metadata(
                prompts={name: list(group) for name, group in prompts.items()},
                prompts_source=embeddings.source,
            )
        self._check_retention_data(run, source=embeddings.source)
        return text_embedding_patch(embeddings)

    def _embed(self, prompts: Mapping[str, Sequence[str]], run: Run) -> TextEmbeddings:
        """Embed phrases as the setting `text_embeddings` requests."""
        phrases = [phrase for group in prompts.values() for phrase in group]
        source = self.settings.text_embeddings
        if source == "orthonormal":
            return orthonormal_embeddings(phrases)
        if source == "clip":
            return clip_embeddings(phrases)
        if source:
            return load_text_embeddings(Path(source).expanduser())
        return clip_or_orthonormal_embeddings(phrases, log=run.log)

    def _check_retention_data(self, run: Run, *, source: str) -> None:
        """Read what the report will need, since after training it is too late to correct it."""
        setting = self.settings.retention_data
        if setting:
            data = read_retention_data(Path(setting).expanduser())
            if why_not_measured(source=source, retention_data=setting) is None:
                self._retention_embeddings(run, data.names)

    def _retention_embeddings(self, run: Run, names: Sequence[str]) -> TextEmbeddings:
        """Return the vectors of the base model's classes, stored in the run before training."""
        path = run.weights / _RETENTION
        stored = load_text_embeddings(path) if path.is_file() else None
        if stored is not None and set(names) <= set(stored.phrases):
            return stored
        prompts = {name: (name,) for name in names}
        embeddings = class_embeddings(self._embed(prompts, run), prompts)
        embeddings.save(path)
        return embeddings

    def _retention(self, run: Run) -> Mapping[str, Any]:
        ultralytics_env.prepare()
        settings, source = self.settings, load_text_embeddings(run.weights / _CLASSES).source
        reason = why_not_measured(source=source, retention_data=settings.retention_data)
        start = None if reason else self._resolve_weights().path
        base: Any = None
        if start is not None:
            base = network.load_network(start, allow_pickle=settings.allow_pickle)
        if reason is None and not hasattr(base, "set_classes"):
            reason = "the base model has no text-driven head, so it knew no class by its prompt"
        if reason is not None:
            return {"value": None, "reason": reason}
        device = first_device(run.device)
        data = read_retention_data(Path(settings.retention_data).expanduser())
        predictors = []
        with text_embedding_patch(self._retention_embeddings(run, data.names)):
            for one in (base, network.load_network(self._checkpoint(run))):
                one.to(device).eval().set_classes(list(data.names))
                one.names = dict(enumerate(data.names))
                predictors.append(
                    YoloPredictor(
                        one,
                        image_size=self._image_size(run),
                        nms_iou=settings.nms_iou,
                        device=device,
                    )
                )
        before, after = predictors
        return measure_retention(before, after, data)

    def _embeddings_file(self, run: Run) -> Path | None:
        return run.weights / _CLASSES

    def _background(self) -> str:
        return self.settings.background_prompt

    def _frozen_layers(self) -> Sequence[int | str]:
        settings = self.settings
        if settings.trainable == "full":
            return super()._frozen_layers()
        return frozen_parts(
            network.model_yaml(settings.model),
            trainable=settings.trainable,
            train_logit_scale=settings.train_logit_scale,
        )

    def _trains_embeddings(self) -> bool:
        return self.settings.trainable == "prompts"

    def _after_training(self, run: Run, trained: Any) -> None:
        if not self._trains_embeddings():
            return
        before = load_text_embeddings(run.weights / _CLASSES)
        if before.source.startswith(_TUNED):
            return
        source = f"{_TUNED} {run.record['data'].get('name', 'data')}, from {before.source}"
        vectors = trained.prompts.detach().float().cpu().numpy()
        TextEmbeddings(before.phrases, vectors, source).save(run.weights / _CLASSES)
        run.update_metadata(prompts_source=source)

    def _set_classes(self, trained: Any, run: Run) -> None:
        try:
            embeddings = load_text_embeddings(run.weights / _CLASSES)
        except ConfigError as error:  # the file is the run's, not one of the settings
            raise WeightsError(f"{error}; or train again") from error
        with text_embedding_patch(embeddings):
            trained.set_classes(list(embeddings.phrases))
        trained.names = dict(enumerate(embeddings.phrases))


def frozen_parts(
    layers: Mapping[str, Any], *, trainable: str, train_logit_scale: bool
) -> list[int | str]:
    """Return Ultralytics' argument `freeze`: layer numbers, and parts of the last layer.

    Args:
        layers: the network, from `model_yaml`.
        trainable: `head` trains the last layer, `prompts` nothing but the class embeddings.
        train_logit_scale: with `prompts`, whether the head's scale and bias are trained, too.
    """
    if trainable == "full":
        return []
    last = len(layers["backbone"]) + len(layers["head"]) - 1
    if trainable == "head":
        return list(range(last))
    if not train_logit_scale:
        return list(range(last + 1))
    norms = [f"{last}.cv4.{level}.norm" for level in range(len(layers["head"][-1][0]))]
    return [*range(last), f"{last}.cv2", f"{last}.cv3", *norms]
