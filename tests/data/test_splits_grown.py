"""Splits of data that grew: what a bank has learnt from is not held out afterwards."""

from __future__ import annotations

import pytest

from tests.data.made import BOTTLE, dataset_of
from toolkit.data.protocols import make_plan


@pytest.mark.parametrize("added", [1, 10, 50])
@pytest.mark.parametrize("attempt", range(5))
def test_what_was_learnt_stays_in_training_when_images_are_added(added: int, attempt: int) -> None:
    before = make_plan(dataset_of(BOTTLE), protocol="official")
    learnt = {slot.sha256 for slot in before.slots if slot.slot == "train"}
    validated = {slot.sha256 for slot in before.slots if slot.slot == "val"}
    new = [("train", "good", 10_000 * (attempt + 1) + i) for i in range(added)]
    grown = dataset_of(BOTTLE + new)
    after = make_plan(grown, protocol="official", seen_images=learnt)
    parts = {
        part: {slot.sha256 for slot in after.slots if slot.slot == part}
        for part in ("train", "val", "test")
    }
    assert learnt <= parts["train"]
    # as many validate as ever, and those that did are not all given up
    assert len(parts["val"]) == round((209 + added) * 0.1)
    assert validated & parts["val"]
    assert parts["test"] == {slot.sha256 for slot in before.slots if slot.slot == "test"}
    assert {s.sha256 for s in after.slots} == set(grown.content.values())


def test_nothing_learnt_changes_no_split() -> None:
    dataset = dataset_of(BOTTLE)
    plain = make_plan(dataset, protocol="official")
    trained = {slot.sha256 for slot in plain.slots if slot.slot == "train"}
    assert make_plan(dataset, protocol="official", seen_images=trained).hash == plain.hash
