"""Which image goes into which part of the output, under which name."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.data.types import Dataset, Sample

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.formats.options import Backgrounds

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the output.

    Attributes:
        sample: where it comes from.
        part: `train`, `val` or `test`.
        stem: its unique flat name, such as `test__broken_large__000`.
    """

    sample: Sample
    part: str
    stem: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The images of a conversion, in the order of parts and ids."""

    entries: tuple[Entry, ...]
    backgrounds: tuple[int, int]


def select(
    dataset: Dataset, *, split: Split | None, backgrounds: Backgrounds, seed: int
) -> Selection:
    """Choose the images and name them.

    Without a split the parts are those of the data set's authors. Good images of the validation
    and test parts always stay: they are what false alarms are counted on.
    """
    if split is None:
        parts = {part: [s for s in dataset if s.part == part] for part in PARTS}
    else:
        parts = {"train": list(split.train), "val": list(split.val), "test": list(split.test)}
    good = [s for s in parts["train"] if not s.is_defect]
    defects = len(parts["train"]) - len(good)
    wanted = _how_many(backgrounds, good=len(good), defects=defects)
    if wanted < len(good):
        # By content, so the choice survives renamed files.
        good.sort(key=lambda s: hashlib.sha256(f"{seed}:{dataset.content[s.id]}".encode()).digest())
        chosen = {s.id for s in good[:wanted]}
        parts["train"] = [s for s in parts["train"] if s.is_defect or s.id in chosen]
    stems = flat_stems([s.id for samples in parts.values() for s in samples])
    entries = tuple(
        Entry(sample=s, part=part, stem=stems[s.id])
        for part in PARTS
        for s in sorted(parts[part], key=lambda s: s.id)
    )
    return Selection(entries=entries, backgrounds=(wanted, len(good)))


def _how_many(backgrounds: Backgrounds, *, good: int, defects: int) -> int:
    if isinstance(backgrounds, str):
        return good
    if isinstance(backgrounds, float):
        return min(good, round(backgrounds / (1 - backgrounds) * defects))
    return min(good, backgrounds)


def flat_stems(ids: list[str]) -> dict[str, str]:
    """Return a flat, unique file stem for each sample id.

    Folders are joined by `__`; where two ids meet, the later ones (in sorted order) get a number.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    seen: Counter[str] = Counter()
    for name in sorted(ids):
        folder, _, file = name.rpartition("/")
        stem = file.rpartition(".")[0] or file
        flat = "__".join([*folder.split("/"), stem]) if folder else stem
        unique = flat
        # Case-folded: on a disk that ignores case, A and a are one file.
        while unique.casefold() in taken:
            seen[flat] += 1
            unique = f"{flat}-{seen[flat] + 1}"
        taken.add(unique.casefold())
        stems[name] = unique
    return stems
