"""Protocols: how each of them assigns the images of a data set to training, validation and test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from toolkit.data.splits import PROTOCOLS, TEST, TRAIN, VAL, Slot, Split, SplitPlan, hashed_order
from toolkit.data.types import GOOD, Dataset
from toolkit.errors import DataError, did_you_mean

_OFFICIAL_VAL_SHARE = 0.1
_OFFICIAL_TEST_SHARE = 0.3


def make_plan(
    dataset: Dataset,
    *,
    protocol: str = "supervised",
    folds: int = 5,
    seed: int = 0,
    per_class: int = 20,
    seen_images: Collection[str] = (),
) -> SplitPlan:
    """Assign every image to a part, so that equal content never falls on two sides.

    Protocols:
        official: a tenth of `train/good` validates, the rest trains, all of `test/` tests. Where
            there is no `test/`, another tenth of `train/good` takes its place. Where there is no
            `train/`, 30 % of the good images test, and all others are as `train/good`.
        supervised: `test/` is divided into folds, stratified by defect type; `train/` trains.
        balanced: `per_class` images of each class, in the same folds; fewer of each where a class
            has fewer. `train/good` fills up where `test/good` is too small.
        auto: `supervised`, or `official` where the data set has no defects.

    Images are assigned in the order of a hash over seed and content, so the result depends
    neither on file names nor on a random generator's version. Of an image that is in both parts,
    only the copies in `test/` take part; defects outside of `test/` train in `supervised` alone.

    Args:
        dataset: the data set to split.
        protocol: see above.
        folds: number of folds (`supervised` and `balanced`).
        seed: decides the order.
        per_class: images of each class (`balanced`).
        seen_images: contents (sha256) in `train/good` that a model was already trained on, so that
            `official` may not validate with them although images that came later change the order.

    Raises:
        DataError: unknown protocol, a class too small for the folds, or nothing to train or test.
    """
    if protocol == "auto":
        protocol = "supervised" if dataset.classes else "official"
    if protocol not in PROTOCOLS:
        raise DataError(f"protocol {protocol}: unknown{did_you_mean(protocol, PROTOCOLS)}")
    if protocol != "official" and not any(s.part == "test" for s in dataset):
        raise DataError(
            f"{dataset.root}: no test images, so nothing can be split; check test/, or use "
            "--protocol official, which needs good images only"
        )
    if protocol == "official":
        folds, slots = 1, _official(dataset, seed, seen_images)
    else:
        if folds < 3:
            raise DataError(f"folds {folds}: test, validation and training need at least 3")
        if protocol == "balanced":
            slots = _balanced(dataset, folds=folds, seed=seed, per_class=per_class)
        else:
            slots = _supervised(dataset, folds=folds, seed=seed)
    return SplitPlan(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        protocol=protocol,
        folds=folds,
        seed=seed,
        slots=tuple(
            Slot(id=s.id, sha256=dataset.content[s.id], label=s.label, slot=slots[s.id])
            for s in dataset
            if s.id in slots
        ),
    )


def make_split(
    dataset: Dataset,
    *,
    protocol: str = "supervised",
    fold: int = 0,
    folds: int = 5,
    seed: int = 0,
    per_class: int = 20,
) -> Split:
    """Split a data set by content and return one fold: training, validation and test part.

    Example:
        >>> split = toolkit.make_split(toolkit.load_dataset("mvtec/bottle"))  # doctest: +SKIP
        >>> len(split.train), len(split.val), len(split.test)  # doctest: +SKIP
        (258, 17, 17)

    Args:
        dataset: the data set to split.
        protocol: `supervised`, `official`, `balanced` or `auto`; see `make_plan`.
        fold: the fold that is tested.
        folds: number of folds (`supervised` and `balanced`).
        seed: decides the order in which images are assigned.
        per_class: images of each class (`balanced`).

    Raises:
        DataError: unknown protocol, a class too small for the folds, or no such fold.
    """
    plan = make_plan(dataset, protocol=protocol, folds=folds, seed=seed, per_class=per_class)
    return plan.fold(dataset, fold)


def _official(dataset: Dataset, seed: int, seen_images: Collection[str]) -> dict[str, str | int]:
    good = _spare_good(dataset, seed) or _undivided_good(dataset, seed)
    learnt = {name for copies in good.values() for name in copies}
    if not good:
        raise DataError(
            f"{dataset.root}: no good images, so nothing to train on; put some into train/good"
        )
    held_out = max(1, round(len(good) * _OFFICIAL_VAL_SHARE)) if len(good) > 1 else 0
    slots: dict[str, str | int] = {
        s.id: TEST for s in dataset if s.part == "test" and s.id not in learnt
    }
    # Without test images some of the good ones test, so that thresholds can be chosen and applied.
    tested = 0 if slots else held_out
    if not slots and len(good) < 3:
        raise DataError(
            f"{dataset.root}: no test images and {len(good)} different good ones; training, "
            "validation and test need at least 3"
        )
    free = [content for content in good if content not in seen_images]
    parts = dict.fromkeys(free[:held_out], VAL)
    parts |= dict.fromkeys(free[held_out : held_out + tested], TEST)
    for content, copies in good.items():
        slots.update(dict.fromkeys(copies, parts.get(content, TRAIN)))
    return slots


def _supervised(dataset: Dataset, *, folds: int, seed: int) -> dict[str, str | int]:
    by_label = _test_contents(dataset, seed)
    for label, order in by_label.items():
        if label != GOOD:
            _check_enough(dataset, label, len(order), folds)
    dealt = _deal(by_label, folds)
    slots: dict[str, str | int] = {
        s.id: dealt[dataset.content[s.id]] for s in dataset if s.part == "test"
    }
    tested = {dataset.content[s.id] for s in dataset if s.part == "test"}
    for sample in dataset:
        if sample.part == "train" and dataset.content[sample.id] not in tested:
            slots[sample.id] = TRAIN
    return slots


def _balanced(dataset: Dataset, *, folds: int, seed: int, per_class: int) -> dict[str, str | int]:
    if per_class < folds:
        raise DataError(f"per class {per_class}: {folds} folds need at least {folds} of each class")
    by_label = _test_contents(dataset, seed)
    spare = _spare_good(dataset, seed)
    by_label[GOOD] = [*by_label.get(GOOD, []), *spare]
    smallest = min(by_label, key=lambda label: len(by_label[label]))
    _check_enough(dataset, smallest, len(by_label[smallest]), folds)
    count = min(per_class, len(by_label[smallest]))
    dealt = _deal({label: order[:count] for label, order in by_label.items()}, folds)
    wanted = {(c, label) for label, order in by_label.items() for c in order[:count]}
    slots: dict[str, str | int] = {}
    for sample in dataset:
        content = dataset.content[sample.id]
        if content in spare and sample.id not in spare[content]:
            continue
        if (content, sample.label) in wanted:  # one copy only, or the classes were not balanced
            wanted.remove((content, sample.label))
            slots[sample.id] = dealt[content]
    return slots


def _test_contents(dataset: Dataset, seed: int) -> dict[str, list[str]]:
    """Return the contents of `test/` by label, each once, in the order of dealing."""
    by_label: dict[str, set[str]] = defaultdict(set)
    taken: set[str] = set()
    for sample in sorted(dataset, key=lambda s: s.label):
        content = dataset.content[sample.id]
        # The first label wins for content that stands under two; `dataset check` reports it.
        if sample.part == "test" and content not in taken:
            by_label[sample.label].add(content)
            taken.add(content)
    if not by_label.keys() - {GOOD}:
        raise DataError(f"{dataset.root}: no defect images in test/; use --protocol official")
    return {label: hashed_order(by_label[label], seed) for label in sorted(by_label)}


def _deal(by_label: dict[str, list[str]], folds: int) -> dict[str, int]:
    slots = {}
    position = 0
    for label in sorted(by_label):
        for content in by_label[label]:  # the next class goes on where this one stopped: even folds
            slots[content] = position % folds
            position += 1
    return slots


def _check_enough(dataset: Dataset, label: str, count: int, folds: int) -> None:
    if count < folds:
        fix = f"use --folds {count} or add images" if count >= 3 else "add images"
        raise DataError(
            f"{dataset.root}: class {label} has {count} different images, too few for {folds} "
            f"folds; {fix}"
        )


def _spare_good(dataset: Dataset, seed: int) -> dict[str, list[str]]:
    """Return the ids of `train/good` by content that is not in `test/`, in the order of dealing."""
    tested = {dataset.content[s.id] for s in dataset if s.part == "test"}
    return _good_of_part(dataset, seed, part="train", other=tested)


def _undivided_good(dataset: Dataset, seed: int) -> dict[str, list[str]]:
    """Return the good images that train where nobody has divided the data into parts."""
    if any(s.part == "train" for s in dataset):
        return {}
    defects = {dataset.content[s.id] for s in dataset if s.is_defect}
    good = _good_of_part(dataset, seed, part="test", other=defects)
    tested = max(1, round(len(good) * _OFFICIAL_TEST_SHARE))
    return dict(list(good.items())[tested:])


def _good_of_part(
    dataset: Dataset, seed: int, *, part: str, other: Collection[str]
) -> dict[str, list[str]]:
    """Return ids of good images by content that is not among the other, in the order of dealing."""
    ids: dict[str, list[str]] = defaultdict(list)
    for sample in dataset:
        if sample.part == part and not sample.is_defect:
            ids[dataset.content[sample.id]].append(sample.id)
    return {content: ids[content] for content in hashed_order(ids.keys() - set(other), seed)}
