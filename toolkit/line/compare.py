"""May a new model take the place of another? Both decide on images whose truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.data.images import is_image_file
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import DataError
from toolkit.inference.model import Model

_GOOD = ("ok", "good", "images/good")
_DEFECTIVE = ("nok", "defect", "images/defect")


@dataclass(frozen=True)
class Comparison:
    """How two models decide on the same images.

    Attributes:
        good: number of good images.
        defective: number of defective images.
        overkill: good images that are NOK, with the old and with the new model.
        escapes: defective images that are OK, with the old and with the new model.
        lost: defective images that the old model stopped and the new one passes.
        forgotten: those of them that a person had labelled, as feedback.
        raised: whether a good image scores higher than before.
    """

    good: int
    defective: int
    overkill: tuple[int, int]
    escapes: tuple[int, int]
    lost: tuple[str, ...]
    forgotten: tuple[str, ...]
    raised: bool

    @property
    def accepted(self) -> bool:
        """Whether neither escapes nor overkill grew, and no defect of the feedback is passed."""
        grew = self.escapes[1] > self.escapes[0] or self.overkill[1] > self.overkill[0]
        return not grew and not self.forgotten

    def text(self) -> str:
        """Return one line."""
        lost = f"; lost: {', '.join(self.lost[:5])}" if self.lost else ""
        return (
            f"overkill {self.overkill[0]} -> {self.overkill[1]} of {self.good}, "
            f"escapes {self.escapes[0]} -> {self.escapes[1]} of {self.defective}{lost}"
        )


def labelled_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the good and the defective images of a folder.

    Args:
        folder: with the folders ok/ and nok/, or good/ and defect/, or images/good and
            images/defect.
    """
    return tuple(
        sorted(
            file
            for name in names
            if (folder / name).is_dir()
            for file in (folder / name).rglob("*")
            if is_image_file(file) and file.is_file()
        )
        for names in (_GOOD, _DEFECTIVE)
    )  # type: ignore[return-value]


def compare(old: Model, new: Model, folders: Iterable[Path]) -> Comparison:
    """Let two models decide on labelled images.

    Args:
        old: the model in use.
        new: the model that may replace it.
        folders: see `labelled_images`; the first is the frozen set and must hold images, the others
            are of feedback and may be missing.

    Raises:
        DataError: the first folder holds no labelled images, or an image cannot be read.
    """
    good: list[Path] = []
    defective: list[Path] = []
    feedback: set[Path] = set()
    for number, folder in enumerate(folders):
        some = labelled_images(folder)
        if number == 0 and not (some[0] and some[1]):
            raise DataError(f"{folder}: needs images in both ok/ and nok/, to judge a new model by")
        good += some[0]
        defective += some[1]
        feedback |= set(some[1]) if number else set()
    on_good = [decide(model, good) for model in (old, new)]
    on_defective = [decide(model, defective) for model in (old, new)]
    passed = [
        {path for path, (outcome, _) in zip(defective, found, strict=True) if outcome is Outcome.OK}
        for found in on_defective
    ]
    lost = sorted(passed[1] - passed[0])
    pairs = zip(*on_good, strict=True)
    return Comparison(
        good=len(good),
        defective=len(defective),
        overkill=_two(sum(outcome is Outcome.NOK for outcome, _ in found) for found in on_good),
        escapes=(len(passed[0]), len(passed[1])),
        lost=tuple(map(_short, lost)),
        forgotten=tuple(_short(path) for path in lost if path in feedback),
        raised=any(after > before + 1e-4 * abs(before) for (_, before), (_, after) in pairs),
    )


def decide(model: Model, images: Sequence[Path]) -> list[tuple[Outcome, float]]:
    """Return the outcome and the score of each image."""
    if not images:
        return []
    results = model.predict(list(images), stream=True)
    return [(result.outcome or Outcome.NOK, result.score) for result in results]


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _two(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return first, second
