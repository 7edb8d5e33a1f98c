"""Files that do not pair up: seen from names alone, before anything is decoded."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from toolkit.data.layouts import unpaired_masks
from toolkit.formats.report import Problem

if TYPE_CHECKING:
    from toolkit.data.types import Dataset, Sample


def pairing_problems(dataset: Dataset) -> tuple[set[str], list[Problem]]:
    """Find masks without image, images of equal stem, and links that lead nowhere.

    Returns:
        Ids of the samples that cannot be used, and one problem per wrong file.
    """
    bad: set[str] = set()
    problems = [
        Problem("mask without image", f"{path}: mask without an image; add the image or remove it")
        for path in unpaired_masks(dataset)
    ]
    by_stem: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in dataset:
        by_stem[(str(sample.image.parent), sample.image.stem)].append(sample)
        for path in (sample.image, *sample.masks):
            if not path.is_file():
                bad.add(sample.id)
                problems.append(Problem("unreadable", f"{path}: no such file; mend the link"))
    for samples in by_stem.values():
        if len(samples) > 1:
            bad.update(s.id for s in samples)
            names = " and ".join(s.image.name for s in samples)
            problems.append(
                Problem(
                    "equal stems",
                    f"{samples[0].image.parent}: {names} share a name, so labels cannot be told "
                    "apart; rename one of them",
                )
            )
    return bad, problems
