"""Shared by several commands: open the data set and the split that their options name."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import printable

if TYPE_CHECKING:
    from toolkit.data.splits import Split, SplitPlan
    from toolkit.data.types import Dataset


def open_dataset(data: Path | None) -> Dataset:
    """Read the data set `--data`; the synthetic sample, made on first use, if None."""
    from toolkit.data.layouts import load_dataset

    if data is None:
        from toolkit.data.synthetic import default_sample

        data = default_sample()
        say(f"no --data given: using the synthetic sample in {data}")
    return say_notes(load_dataset(data))


def say_notes(dataset: Dataset) -> Dataset:
    """Say what was assumed when a data set was read, and return it."""
    for note in dataset.notes:
        say(f"{printable(dataset.name)} (read as {dataset.layout}): {printable(note)}")
    return dataset


def open_plan(
    dataset: Dataset, split: Path | None, *, protocol: str, folds: int = 5, seed: int = 0,
    per_class: int = 20, seen_images: Collection[str] = (),
) -> SplitPlan:  # fmt: skip
    """Read the split file `--split`, or make the split of the protocol."""
    from toolkit.data.protocols import make_plan
    from toolkit.data.splits import SplitPlan

    if split is not None:
        return SplitPlan.read(split)
    return make_plan(
        dataset,
        protocol=protocol,
        folds=folds,
        seed=seed,
        per_class=per_class,
        seen_images=seen_images,
    )


def open_split(
    dataset: Dataset,
    split: Path | None,
    *,
    protocol: str,
    fold: int,
    seen_images: Collection[str] = (),
) -> Split:
    """Return one fold of a plan, see `open_plan`."""
    return open_plan(dataset, split, protocol=protocol, seen_images=seen_images).fold(dataset, fold)


def say(message: str) -> None:
    """Print a message to standard error; standard output is for results.

    Names in it may hold terminal commands, which are printed as text.
    """
    print("\n".join(map(printable, message.split("\n"))), file=sys.stderr)
