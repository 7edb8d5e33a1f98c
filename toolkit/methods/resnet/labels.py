"""From a sample's label to a class index, and the checks that come before any training."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from toolkit.data.types import GOOD, Sample
from toolkit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from toolkit.data.splits import Split

DEFECT = "defect"


def class_names(split: Split, *, binary: bool) -> tuple[str, ...]:
    """Return the classes to learn, `good` first.

    Args:
        split: its training part must show every class at least twice.
        binary: `good` and `defect` instead of `good` and the defect types.

    Raises:
        DataError: a class has no training image, or only one; or there is nothing to validate on.
    """
    counts = Counter(_class_of(s, binary=binary) for s in split.train)
    everywhere = {_class_of(s, binary=binary) for s in split.dataset}
    if not counts.keys() - {GOOD}:
        raise DataError(
            f"{split.dataset.root}: protocol {split.protocol} trains on no defect image, and a "
            "classifier needs some; use the protocol supervised or balanced"
        )
    for name in sorted(everywhere | {GOOD}):
        if counts[name] < 2:
            has = "only one training image" if counts[name] else "no training image"
            raise DataError(
                f"{split.dataset.root}: class {name} has {has} in fold {split.fold}; add images, "
                "use fewer folds, or leave its folder out"
            )
    if not split.val:
        raise DataError(
            f"{split.dataset.root}: no validation image in fold {split.fold}; split it again"
        )
    return (GOOD, *sorted(counts.keys() - {GOOD}))


def class_indices(samples: Iterable[Sample], classes: tuple[str, ...]) -> list[int]:
    """Return the index of each sample's class."""
    binary = classes == (GOOD, DEFECT)
    return [classes.index(_class_of(sample, binary=binary)) for sample in samples]


def _class_of(sample: Sample, *, binary: bool) -> str:
    return DEFECT if binary and sample.is_defect else sample.label
