"""Split files: assign every image to training, validation or test, by its content.

A `SplitPlan` is one file for all folds; a `Split` is one fold of it bound to a data set. Two runs
are comparable if and only if they name the same plan hash and cover the same folds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import DataError, printable
from toolkit.files import read_json, write_json

SCHEMA = 1
PROTOCOLS = ("official", "supervised", "balanced")
TRAIN, VAL, TEST = "train", "val", "test"

Budget: TypeAlias = int | Literal["all"]
"""Labelled defect images per type that training may use."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one image goes: `train`, `val`, `test`, or the number of its fold.

    Attributes:
        id: the sample's id, for the human reader.
        sha256: hash of the image file; this is what counts.
        label: `good` or the defect type.
        slot: `train`, `val`, `test`, or a fold number.
    """

    id: str
    sha256: str
    label: str
    slot: str | int


@dataclass(frozen=True)
class Split:
    """One fold, ready for a method. The three parts share no image content.

    `seed` is that of the plan: it orders the defect images of a budget.
    """

    dataset: Dataset
    plan_hash: str
    protocol: str
    fold: int
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    seed: int = 0

    def with_budget(self, budget: Budget) -> Split:
        """Return the same fold with a limited number of defect images in training.

        All good training images stay, and of each defect type the first `budget` different images
        in an order that depends only on the plan's seed and the images' content: a smaller budget
        is always part of a larger one. Validation and test stay as they are, so that thresholds
        are chosen alike and runs of all budgets are comparable; `labels` of a run holds the
        number of defects in the validation part.

        Args:
            budget: images per defect type, 0 or more; `all` changes nothing.

        Raises:
            DataError: the budget is negative.
        """
        if budget == "all":
            return self
        if budget < 0:
            raise DataError(f"budget {budget}: give 0 or more defect images per type, or all")
        content = self.dataset.content
        by_type: dict[str, dict[str, str]] = defaultdict(dict)
        for sample in self.train:
            if sample.is_defect:  # copies of an image count once
                by_type[sample.label].setdefault(content[sample.id], sample.id)
        kept = {
            ids[c]
            for label, ids in by_type.items()
            for c in hashed_order(ids, f"{self.seed}:{label}")[:budget]
        }
        train = tuple(s for s in self.train if not s.is_defect or s.id in kept)
        return replace(self, train=train)


@dataclass(frozen=True)
class SplitPlan:
    """The assignment of every image of a data set, for all folds.

    Attributes:
        dataset: name of the data set.
        fingerprint: its content fingerprint.
        protocol: one of `PROTOCOLS`.
        folds: number of folds.
        seed: seed of the assignment.
        slots: one per sample that takes part.
    """

    dataset: str
    fingerprint: str
    protocol: str
    folds: int
    seed: int
    slots: tuple[Slot, ...]

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits over the protocol and every (content, label, slot).

        File names do not matter; labels do, or relabelled data would count as the same test.
        """
        triples = sorted((s.sha256, s.label, str(s.slot)) for s in self.slots)
        text = json.dumps([self.protocol, self.folds, triples])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def fold(self, dataset: Dataset, fold: int) -> Split:
        """Bind one fold to the data set.

        In fold i, slot i is test, slot i+1 validation, all other folds and `train` are training.

        Raises:
            DataError: no such fold, or the data set is not the one that was split.
        """
        if not 0 <= fold < self.folds:
            raise DataError(f"fold {fold}: the split has folds 0 to {self.folds - 1}")
        if dataset.fingerprint != self.fingerprint:
            raise DataError(
                f"{dataset.root}: not the data that was split (fingerprint "
                f"{dataset.fingerprint[:12]}, the split has {self.fingerprint[:12]}); "
                "write a new split with: toolkit dataset split"
            )
        parts: dict[str, list[Sample]] = {TRAIN: [], VAL: [], TEST: []}
        for slot in self.slots:
            if slot.id not in dataset.by_id:
                raise DataError(
                    f"{dataset.root}: no image {printable(slot.id)}, which the split names; write "
                    "a new split with: toolkit dataset split"
                )
            parts[self._part(slot.slot, fold)].append(dataset.by_id[slot.id])
        return Split(
            dataset=dataset,
            plan_hash=self.hash,
            protocol=self.protocol,
            fold=fold,
            train=tuple(parts[TRAIN]),
            val=tuple(parts[VAL]),
            test=tuple(parts[TEST]),
            seed=self.seed,
        )

    def _part(self, slot: str | int, fold: int) -> str:
        if isinstance(slot, str):
            return slot
        if slot == fold:
            return TEST
        return VAL if slot == (fold + 1) % self.folds else TRAIN

    def write(self, path: Path) -> None:
        """Write the split file (JSON), atomically."""
        record = {"schema": SCHEMA, "hash": self.hash, **asdict(self)}
        write_json(path, {**record, "checksum": _checksum(record)})

    @classmethod
    def read(cls, path: Path) -> SplitPlan:
        """Read a split file.

        Raises:
            DataError: missing, not a split file, of another schema, or edited by hand.
        """
        record = read_json(path)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise DataError(f"{path}: not a split file of schema {SCHEMA}; write a new one")
        stored = record.pop("checksum", None)
        try:
            plan = cls(
                dataset=record["dataset"],
                fingerprint=record["fingerprint"],
                protocol=record["protocol"],
                folds=record["folds"],
                seed=record["seed"],
                slots=tuple(Slot(**slot) for slot in record["slots"]),
            )
            _check_types(plan)
            # The hash does not cover ids, and an id decides which file is read: check both.
            is_valid = (
                plan.protocol in PROTOCOLS
                and type(plan.folds) is int
                and type(plan.seed) is int
                and plan.hash == record.get("hash")
                and stored == _checksum(record)
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = printable(error)
            raise DataError(f"{path}: damaged split file ({reason}); write a new one") from error
        if not is_valid:
            raise DataError(f"{path}: changed since it was written; write a new one")
        return plan


def _check_types(plan: SplitPlan) -> None:
    """Check what a file may hold that somebody else wrote.

    Raises:
        ValueError: a value is of another kind, or a slot does not exist.
    """
    texts = [plan.dataset, plan.fingerprint]
    for slot in plan.slots:
        texts += [slot.id, slot.sha256, slot.label]
        is_fold = type(slot.slot) is int and 0 <= slot.slot < plan.folds
        if not is_fold and slot.slot not in (TRAIN, VAL, TEST):
            raise ValueError(f"slot {slot.slot!s:.20}")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{text!s:.20} is no text")


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def hashed_order(contents: Iterable[str], seed: int | str) -> list[str]:
    """Return contents in an order that depends on the seed and on nothing else."""
    return sorted(contents, key=lambda c: hashlib.sha256(f"{seed}:{c}".encode()).digest())


def part_counts(samples: Iterable[Sample]) -> dict[str, int]:
    """Count samples per label, `good` first."""
    counts = Counter(s.label for s in samples)
    return {label: counts[label] for label in sorted(counts, key=lambda x: (x != GOOD, x))}
