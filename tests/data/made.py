"""Data sets without files, for what looks at names, labels and contents only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from toolkit.data.types import Dataset, Sample

Row = tuple[str, str, int]
"""Part, label and a number that stands for the content."""


def dataset_of(rows: list[Row], *, names: list[int] | None = None) -> Dataset:
    """Make a data set without files: its contents are given instead of hashed.

    Args:
        rows: one per sample.
        names: number of each sample's file name; by default its place in `rows`.
    """
    samples, content = [], {}
    for place, (part, label, number) in enumerate(rows):
        name = f"{part}/{label}/{names[place] if names else place:03d}.png"
        samples.append(Sample(id=name, image=Path(name), label=label, part=part))
        content[name] = hashlib.sha256(str(number).encode()).hexdigest()
    dataset = Dataset(name="made", root=Path("made"), samples=tuple(sorted(samples, key=_id)))
    # What the cached properties would read from disk.
    dataset.__dict__["content"] = content
    lines = [f"{s.id}{s.label}{content[s.id]}" for s in dataset]
    dataset.__dict__["fingerprint"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return dataset


def _id(sample: Sample) -> str:
    return sample.id


def rows_of(*groups: tuple[str, str, int]) -> list[Row]:
    """Expand (part, label, how many) into rows of different content."""
    rows: list[Row] = []
    for part, label, count in groups:
        rows += [(part, label, len(rows) + i) for i in range(count)]
    return rows


BOTTLE = rows_of(
    ("train", "good", 209),
    ("test", "good", 20),
    ("test", "broken_large", 20),
    ("test", "broken_small", 22),
    ("test", "contamination", 21),
)
