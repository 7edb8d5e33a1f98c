"""Files that do not pair up: seen from names alone, before anything is decoded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.data.layouts import unpaired_masks
from toolkit.formats.inputs import stamp
from toolkit.formats.report import Problem

if TYPE_CHECKING:
    from toolkit.data.types import Dataset, Sample


@dataclass(frozen=True)
class Pairing:
    """What the names of the files tell.

    Attributes:
        bad: ids of the samples that cannot be used.
        problems: one per wrong file.
        stamps: size, time and inode of each file, see `toolkit.formats.inputs`.
    """

    bad: set[str]
    problems: list[Problem]
    stamps: dict[str, list[int]]


def check_pairing(dataset: Dataset) -> Pairing:
    """Find masks without image, images of equal stem, and links that lead nowhere."""
    bad: set[str] = set()
    stamps: dict[str, list[int]] = {}
    problems = [
        Problem("mask without image", f"{path}: mask without an image; add the image or remove it")
        for path in unpaired_masks(dataset)
    ]
    by_stem: dict[tuple[str, str], list[Sample]] = defaultdict(list)  # by folder and stem
    for sample in dataset:
        by_stem[(str(sample.image.parent), sample.image.stem)].append(sample)
        for path in (sample.image, *sample.masks):
            try:
                stamps[str(path)] = stamp(path)
            except OSError:
                bad.add(sample.id)
                problems.append(Problem("unreadable", f"{path}: no such file; mend the link"))
    for samples in by_stem.values():
        names = sorted({s.image.name for s in samples})
        if len(names) > 1:
            bad.update(s.id for s in samples)
            problems.append(
                Problem(
                    "equal stems",
                    f"{samples[0].image.parent}: {' and '.join(names)} share a name, so their "
                    "labels cannot be told apart; rename one of them",
                )
            )
    return Pairing(bad, problems, stamps)
