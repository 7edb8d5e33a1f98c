"""The method `yolo-world`: a detector whose classes are text embeddings, which are kept as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit import ultralytics_env
from toolkit.data.splits import Split
from toolkit.methods.yolo import network
from toolkit.methods.yolo.checkpoint import load_network
from toolkit.methods.yolo.method import Detector, one_device
from toolkit.methods.yolo.prompt_tuning import frozen_parts, tuned_bank
from toolkit.methods.yolo.prompts import (
    PromptBank,
    class_bank,
    known_by_class,
    load_bank,
    orthonormal_bank,
)
from toolkit.methods.yolo.settings import YoloWorldSettings
from toolkit.methods.yolo.training_data import class_prompts
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from toolkit.methods.yolo.forgetting import OldData

_PROMPTS = "prompts.safetensors"
_PHRASES = "phrases.safetensors"
_OLD = "old_classes.safetensors"
_TUNED = "tuned on"


class YoloWorld(Detector[YoloWorldSettings]):
    """A detector whose classes are text embeddings, fine-tuned on the defects' boxes.

    The embeddings are data: `weights/prompts.safetensors` of the run, one vector per class.
    """

    name: ClassVar[str] = "yolo-world"
    Settings: ClassVar[type] = YoloWorldSettings
    world: ClassVar[bool] = True

    def _answers(self, split: Split, run: Run, *, resumed: bool) -> AbstractContextManager[None]:
        from toolkit.methods.yolo.text_seam import answered_from

        # The file that a bank came from may have changed, or be gone, since the run began.
        kept = run.weights / _PROMPTS
        if resumed and kept.is_file():
            bank = load_bank(kept, as_stored=True)
        else:
            bank = self._make_bank(split, run)
        self._check_old_data(run, source=bank.source)
        return answered_from(bank)

    def _make_bank(self, split: Split, run: Run) -> PromptBank:
        prompts = dict(class_prompts(split))
        if self._background():
            prompts[self._background()] = (self._background(),)
        phrases = self._phrases(prompts, run)
        bank = class_bank(phrases, known_by_class(phrases, prompts))
        phrases.save(run.weights / _PHRASES)
        bank.save(run.weights / _PROMPTS)
        asked = {name: list(group) for name, group in prompts.items()}
        run.update_metadata(prompts=asked, prompts_source=bank.source)
        return bank

    def _check_old_data(self, run: Run, *, source: str) -> None:
        """Read what the report will need, since after a training it is too late to correct it."""
        from toolkit.methods.yolo.forgetting import why_none

        if self.settings.old_data:
            data = self._old_data()
            if why_none(source=source, old_data=self.settings.old_data) is None:
                self._old_bank(run, data.names)

    def _old_data(self) -> OldData:
        from toolkit.methods.yolo.forgetting import read_old_data

        return read_old_data(Path(self.settings.old_data).expanduser())

    def _old_bank(self, run: Run, names: Sequence[str]) -> PromptBank:
        """Return the vectors of the old classes, kept in the run from its beginning."""
        path = run.weights / _OLD
        kept = load_bank(path) if path.is_file() else None
        if kept is not None and set(names) <= set(kept.phrases):
            return kept
        prompts = {name: (name,) for name in names}
        bank = class_bank(self._phrases(prompts, run), prompts)
        bank.save(path)
        return bank

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return what `yolo` reports, and what was forgotten of the classes that the base knew."""
        return {**super().report(split, run), "forgetting": self._forgetting(run)}

    def _forgetting(self, run: Run) -> Mapping[str, Any]:
        from toolkit.methods.yolo.forgetting import forgetting, why_none
        from toolkit.methods.yolo.text_seam import answered_from

        ultralytics_env.prepare()
        settings, source = self.settings, load_bank(run.weights / _PROMPTS).source
        reason = why_none(source=source, old_data=settings.old_data)
        start = None if reason else self._find_start().path
        base: Any = load_network(start, trust=settings.trust) if start else None
        if reason is None and not hasattr(base, "set_classes"):
            reason = "the start has no text-driven head, so it knew no class by its prompt"
        if reason is not None:
            return {"value": None, "reason": reason}
        device = one_device(run.device)
        data = self._old_data()
        bank = self._old_bank(run, data.names)
        tuned = load_network(self._checkpoint(run))
        with answered_from(bank):
            for one in (base, tuned):
                one.to(device).eval().set_classes(list(data.names))
                one.names = dict(enumerate(data.names))
        return forgetting(
            base,
            tuned,
            data,
            image_size=settings.image_size,
            nms_iou=settings.nms_iou,
            device=device,
        )

    def _phrases(self, prompts: Mapping[str, Sequence[str]], run: Run) -> PromptBank:
        every = [phrase for group in prompts.values() for phrase in group]
        source = self.settings.prompt_bank
        if source == "orthonormal":
            return orthonormal_bank(every)
        if source not in ("", "clip"):
            return load_bank(Path(source).expanduser())
        from toolkit.methods.yolo.clip_text import clip_bank, clip_or_orthonormal_bank

        return clip_bank(every) if source else clip_or_orthonormal_bank(every, log=run.log)

    def _bank_file(self, run: Run) -> Path | None:
        return run.weights / _PROMPTS

    def _background(self) -> str:
        return self.settings.background

    def _frozen(self) -> Sequence[int | str]:
        settings = self.settings
        if settings.train == "full":
            return super()._frozen()
        layers = network.model_yaml(settings.model)
        return frozen_parts(layers, train=settings.train, tune_scale=settings.tune_scale)

    def _prompts_to_tune(self, run: Run) -> PromptBank | None:
        return load_bank(run.weights / _PROMPTS) if self.settings.train == "prompts" else None

    def _after_training(self, run: Run) -> None:
        if self.settings.train != "prompts":
            return
        before = load_bank(run.weights / _PROMPTS)
        if before.source.startswith(_TUNED):
            return
        trained = load_network(self._checkpoint(run))
        source = f"{_TUNED} {run.record['data'].get('name', 'data')}, from {before.source}"
        tuned_bank(trained, before.phrases, source=source).save(run.weights / _PROMPTS)
        run.update_metadata(prompts_source=source)

    def _set_vocabulary(self, detector: Any, run: Run) -> None:
        from toolkit.methods.yolo.text_seam import answered_from

        bank = load_bank(run.weights / _PROMPTS)
        with answered_from(bank):
            detector.set_classes(list(bank.phrases))
        detector.names = dict(enumerate(bank.phrases))
