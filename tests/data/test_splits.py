"""Split plans: no leak, every test image once, names without influence, edits refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.made import BOTTLE, Row, dataset_of, rows_of
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import PROTOCOLS, Split, SplitPlan, part_counts
from toolkit.data.types import Dataset, Sample
from toolkit.errors import DataError, ToolkitError

# Few different numbers make duplicates within a class, across classes and across parts likely.
mixtures = st.builds(
    lambda wild, floor: wild + floor,
    st.lists(
        st.tuples(
            st.sampled_from(["train", "test"]),
            st.sampled_from(["good", "scratch", "dent"]),
            st.integers(0, 25),
        ),
        max_size=40,
    ),
    st.just(
        [("train", "good", 100), ("train", "good", 101)]
        + [("test", label, 200 + 10 * k + i) for k, label in enumerate(("scratch", "dent"))
           for i in range(4)]
        + [("test", "good", 300 + i) for i in range(4)]
    ),
)  # fmt: skip


def folds_of(plan: SplitPlan, dataset: Dataset) -> list[Split]:
    return [plan.fold(dataset, i) for i in range(plan.folds)]


def contents(dataset: Dataset, samples: tuple[Sample, ...]) -> set[str]:
    return {dataset.content[s.id] for s in samples}


@given(mixtures, st.sampled_from(PROTOCOLS), st.integers(0, 3), st.integers(3, 4))
def test_no_content_on_two_sides(rows: list[Row], protocol: str, seed: int, folds: int) -> None:
    dataset = dataset_of(rows)
    plan = make_plan(dataset, protocol=protocol, seed=seed, folds=folds)
    for split in folds_of(plan, dataset):
        train, val, test = (contents(dataset, p) for p in (split.train, split.val, split.test))
        assert not train & val
        assert not train & test
        assert not val & test
        assert split.train
        assert split.test


@given(mixtures, st.sampled_from(["official", "supervised"]), st.integers(3, 4))
def test_every_test_image_is_tested_once(rows: list[Row], protocol: str, folds: int) -> None:
    dataset = dataset_of(rows)
    plan = make_plan(dataset, protocol=protocol, folds=folds)
    tested = Counter(s.id for split in folds_of(plan, dataset) for s in split.test)
    assert tested == Counter(s.id for s in dataset if s.part == "test")


@given(mixtures, st.integers(3, 4), st.integers(4, 9))
def test_balanced_has_the_same_number_of_each_class(
    rows: list[Row], folds: int, per_class: int
) -> None:
    dataset = dataset_of(rows)
    plan = make_plan(dataset, protocol="balanced", folds=folds, per_class=per_class)
    tested = [s for split in folds_of(plan, dataset) for s in split.test]
    counts = part_counts(tested)
    assert set(counts) == {"good", "scratch", "dent"}
    assert len(set(counts.values())) == 1
    assert 4 <= counts["good"] <= per_class
    assert len({s.id for s in tested}) == len(tested)
    assert len(contents(dataset, tuple(tested))) == len(tested)


@given(mixtures, st.integers(0, 3))
def test_official_learns_from_good_images_alone(rows: list[Row], seed: int) -> None:
    dataset = dataset_of(rows)
    split = make_plan(dataset, protocol="official", seed=seed).fold(dataset, 0)
    assert not any(s.is_defect or s.part == "test" for s in (*split.train, *split.val))
    assert all(s.part == "test" for s in split.test)


@given(mixtures, st.sampled_from(PROTOCOLS), st.randoms(use_true_random=False))
def test_the_hash_does_not_depend_on_file_names(
    rows: list[Row], protocol: str, random: Any
) -> None:
    names = list(range(len(rows)))
    random.shuffle(names)
    plans = [
        make_plan(dataset_of(rows, names=order), protocol=protocol, folds=3)
        for order in (None, names)
    ]
    assert plans[0].hash == plans[1].hash


@given(mixtures, st.sampled_from(PROTOCOLS), st.integers(0, 3))
def test_reading_back_equals(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], protocol: str, seed: int
) -> None:
    path = tmp_path_factory.mktemp("plan") / "a.split.json"
    plan = make_plan(dataset_of(rows), protocol=protocol, folds=3, seed=seed)
    plan.write(path)
    again = SplitPlan.read(path)
    assert again == plan
    assert again.hash == plan.hash


@pytest.mark.parametrize("protocol", ["supervised", "balanced"])
def test_folds_are_even_and_stratified(protocol: str) -> None:
    dataset = dataset_of(BOTTLE)
    splits = folds_of(make_plan(dataset, protocol=protocol), dataset)
    for split in splits:
        for label, number in part_counts(split.test).items():
            whole = sum(part_counts(s.test).get(label, 0) for s in splits)
            assert whole // 5 <= number <= -(-whole // 5)
    sizes = [len(s.test) for s in splits]
    assert max(sizes) - min(sizes) <= 1


def test_the_protocols_on_a_bottle_like_data_set() -> None:
    dataset = dataset_of(BOTTLE)
    official = make_plan(dataset, protocol="official").fold(dataset, 0)
    assert (len(official.train), len(official.val), len(official.test)) == (188, 21, 83)
    supervised = make_plan(dataset)
    assert len(supervised.slots) == 292
    for i, split in enumerate(folds_of(supervised, dataset)):
        assert len(split.train) + len(split.val) + len(split.test) == 292
        # Fold i's validation images are fold i + 1's test images.
        assert split.val == supervised.fold(dataset, (i + 1) % 5).test
    balanced = make_plan(dataset, protocol="balanced")
    assert Counter(s.label for s in balanced.slots) == dict.fromkeys(
        ("good", "broken_large", "broken_small", "contamination"), 20
    )


@pytest.mark.parametrize(("count", "held_out"), [(3, 1), (10, 1), (200, 20)])
def test_official_without_test_images_holds_out_a_second_slice(count: int, held_out: int) -> None:
    alone = dataset_of(rows_of(("train", "good", count)))
    plan = make_plan(alone, protocol="official")
    parts = Counter(s.slot for s in plan.slots)
    assert parts == {"val": held_out, "test": held_out, "train": count - 2 * held_out}
    # With test images the same good ones validate, and none of them tests.
    tested = dataset_of(rows_of(("train", "good", count), ("test", "dent", 1)))
    split = make_plan(tested, protocol="official").fold(tested, 0)
    assert contents(alone, plan.fold(alone, 0).val) == contents(tested, split.val)
    assert all(s.part == "test" for s in split.test)


def test_without_defects_the_protocol_is_official() -> None:
    good = dataset_of(rows_of(("train", "good", 20)))
    assert make_plan(good, protocol="auto").protocol == "official"
    assert make_plan(dataset_of(BOTTLE), protocol="auto").protocol == "supervised"


def test_another_seed_is_another_split() -> None:
    dataset = dataset_of(BOTTLE)
    hashes = {make_plan(dataset, seed=s, protocol=p).hash for s in (0, 1, -1) for p in PROTOCOLS}
    assert len(hashes) == 9


def test_relabelled_images_are_another_split() -> None:
    rows = rows_of(("train", "good", 5), ("test", "good", 5), ("test", "dent", 5))
    relabelled = [(p, "scratch" if label == "dent" else label, n) for p, label, n in rows]
    plans = [make_plan(dataset_of(r), protocol="official") for r in (rows, relabelled)]
    assert plans[0].hash != plans[1].hash


def test_copies_of_test_images_in_train_take_no_part() -> None:
    rows = [*BOTTLE, ("train", "good", 215), ("train", "good", 240), ("train", "dent", 7)]
    dataset = dataset_of(rows)
    for protocol in PROTOCOLS:
        plan = make_plan(dataset, protocol=protocol)
        ids = {slot.id for slot in plan.slots}
        assert not ids & {"train/good/292.png", "train/good/293.png"}
        assert ("train/dent/294.png" in ids) == (protocol == "supervised")


def test_balanced_fills_up_with_train_good() -> None:
    rows = rows_of(("train", "good", 9), ("test", "good", 2), ("test", "dent", 6))
    dataset = dataset_of(rows)
    plan = make_plan(dataset, protocol="balanced", folds=3, per_class=5)
    good = [dataset.by_id[s.id] for s in plan.slots if s.label == "good"]
    assert Counter(s.part for s in good) == {"test": 2, "train": 3}
    # A test folder without good images is no reason to have no good class.
    rows = rows_of(("train", "good", 9), ("test", "dent", 6))
    plan = make_plan(dataset_of(rows), protocol="balanced", folds=3, per_class=5)
    assert Counter(s.label for s in plan.slots) == {"good": 5, "dent": 5}


SMALL = rows_of(("train", "good", 5), ("test", "good", 5), ("test", "dent", 5))


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        # a name that is nearly right
        (SMALL, {"protocol": "balance"}, "did you mean 'balanced'"),
        # two folds leave nothing to train on
        (SMALL, {"folds": 2}, "at least 3"),
        # a class that is smaller than the number of folds, and the number that would do
        (SMALL, {"folds": 6}, "class dent has 5 different images.*use --folds 5"),
        (SMALL, {"folds": 6, "protocol": "balanced", "per_class": 6}, "class dent has 5"),
        # a class that is too small for any number of folds
        (rows_of(("test", "good", 5), ("test", "dent", 2)), {"folds": 3}, "; add images"),
        # copies do not make a class larger
        ([("test", "dent", 1)] * 9, {"folds": 3}, "class dent has 1 different"),
        # fewer of each class than folds; a negative number
        (SMALL, {"protocol": "balanced", "per_class": 4}, "per class 4"),
        (SMALL, {"protocol": "balanced", "per_class": -1}, "per class -1"),
        # nothing to test
        (rows_of(("train", "good", 5)), {}, "no test images.*--protocol official"),
        (rows_of(("train", "good", 2)), {"protocol": "official"}, "2 different good ones"),
        # nothing to find
        (rows_of(("train", "good", 5), ("test", "good", 5)), {}, "no defect images"),
        # nothing to train on, because every good image is also a test image
        ([("train", "good", 1), ("test", "good", 1), ("test", "dent", 2)],
         {"protocol": "official"}, "nothing to train on"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(rows: list[Row], options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        make_plan(dataset_of(rows), **options)
    assert "\n" not in str(caught.value)


def test_other_data_and_other_folds_are_refused() -> None:
    plan = make_plan(dataset_of(SMALL))
    with pytest.raises(DataError, match="not the data that was split"):
        plan.fold(dataset_of(BOTTLE), 0)
    for fold in (-1, 5):
        with pytest.raises(DataError, match="folds 0 to 4"):
            plan.fold(dataset_of(SMALL), fold)


def _swap_ids(record: dict[str, Any]) -> None:
    first, last = record["slots"][0], record["slots"][-1]
    first["id"], last["id"] = last["id"], first["id"]


@pytest.mark.parametrize(
    "edit",
    [
        # an image moved to another part
        lambda r: r["slots"][0].update(slot="test"),
        # an image left out
        lambda r: r["slots"].pop(),
        # a label changed
        lambda r: r["slots"][0].update(label="scratch"),
        # two ids exchanged: (content, slot) pairs stay as they were, but other files are read
        _swap_ids,
        # what the plan was made from
        lambda r: r.update(seed=7),
        lambda r: r.update(fingerprint="0" * 64),
        lambda r: r.update(dataset="other"),
        lambda r: r.update(folds=4),
        lambda r: r.update(protocol="balanced"),
        # the seal itself
        lambda r: r.pop("checksum"),
        lambda r: r.update(hash="0" * 12),
        # keys that are missing, unknown or of another kind
        lambda r: r.pop("slots"),
        lambda r: r["slots"][0].update(weight=1),
        lambda r: r.update(slots="none"),
        lambda r: r.update(extra=1),
        lambda r: r.update(schema=99),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, edit: Any) -> None:
    path = tmp_path / "a.split.json"
    make_plan(dataset_of(SMALL)).write(path)
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="write a new one") as caught:
        SplitPlan.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "5", "{", "not json", '{"schema": 1}'])
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.split.json"
    path.write_text(text)
    with pytest.raises(ToolkitError) as caught:
        SplitPlan.read(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ToolkitError, match="check the path"):
        SplitPlan.read(tmp_path / "missing.json")


def test_equal_plans_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_plan(dataset_of(SMALL), seed=3).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_on_disk(sample_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset(sample_dir)
    plan = make_plan(dataset)
    plan.write(tmp_path / "s.json")
    split = SplitPlan.read(tmp_path / "s.json").fold(load_dataset(sample_dir), 2)
    assert all(s.image.is_file() for s in (*split.train, *split.val, *split.test))
    # A changed picture is another data set.
    sample = dataset.samples[0]
    changed = dataclasses.replace(sample, image=dataset.samples[1].image)
    other = dataclasses.replace(dataset, samples=(changed, *dataset.samples[1:]))
    with pytest.raises(DataError, match="not the data that was split"):
        plan.fold(other, 0)


def test_part_counts_begin_with_good() -> None:
    assert list(part_counts(dataset_of(BOTTLE))) == [
        "good",
        "broken_large",
        "broken_small",
        "contamination",
    ]
    assert part_counts([]) == {}


def _train_of(budget: Any, *, seed: int = 0, rows: list[Row] = BOTTLE) -> tuple[Sample, ...]:
    dataset = dataset_of(rows)
    return make_plan(dataset, seed=seed).fold(dataset, 1).with_budget(budget).train


def test_a_budget_keeps_all_good_images_and_so_many_of_each_type() -> None:
    counts = part_counts(_train_of(2))
    assert counts.pop("good") == part_counts(_train_of("all"))["good"]
    assert set(counts.values()) == {2}
    assert len(counts) == 3
    assert part_counts(_train_of(0)).keys() == {"good"}
    # More than there are: all of them.
    assert _train_of(1000) == _train_of("all")


def test_budgets_are_nested_and_depend_on_the_plans_seed() -> None:
    chosen = [{s.id for s in _train_of(k) if s.is_defect} for k in (0, 1, 2, 5, 10, "all")]
    for smaller, larger in itertools.pairwise(chosen):
        assert smaller < larger
    assert len({_train_of(1, seed=seed) for seed in range(4)}) > 1


def test_a_budget_leaves_validation_test_and_hash_alone() -> None:
    dataset = dataset_of(BOTTLE)
    split = make_plan(dataset).fold(dataset, 2)
    few = split.with_budget(1)
    assert (few.val, few.test, few.plan_hash) == (split.val, split.test, split.plan_hash)


def test_copies_count_once_in_a_budget() -> None:
    dataset = dataset_of(BOTTLE)
    split = make_plan(dataset).fold(dataset, 0)
    first = next(s for s in split.train if s.is_defect)
    copy = dataclasses.replace(first, id=first.id + "-copy")
    dataset.content[copy.id] = dataset.content[first.id]
    doubled = dataclasses.replace(split, train=(*split.train, copy))
    assert doubled.with_budget(5).train == split.with_budget(5).train


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(DataError, match="budget -1"):
        _train_of(-1)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(slots=None),
        lambda r: r.update(slots=[None]),
        lambda r: r["slots"][0].update(sha256=[1]),
        lambda r: r["slots"][0].update(label={}),
        lambda r: r.update(folds="5"),
        lambda r: r.update(protocol=7),
        lambda r: r.update(seed=None),
    ],
)
def test_mutated_split_files(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = tmp_path / "split.json"
    make_plan(dataset_of(BOTTLE)).write(path)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="write a new one"):
        SplitPlan.read(path)
    path.write_text("[" * 5000)
    with pytest.raises(ToolkitError, match="not valid JSON"):
        SplitPlan.read(path)
