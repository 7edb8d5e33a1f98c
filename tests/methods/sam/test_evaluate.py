"""True prompts: which answer belongs to which kind, and how clicks follow each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.data.regions import regions_of
from toolkit.data.types import Sample
from toolkit.methods.sam import evaluate
from toolkit.methods.sam.evaluate import FIRST_KINDS, KINDS, prompted
from toolkit.methods.sam.frames import WHOLE
from toolkit.methods.sam.prompts import Prompt
from toolkit.methods.sam.targets import Target, low_mask

TRUTH = np.zeros((60, 80), bool)
TRUTH[10:50, 20:60] = True


class _Said:
    def __init__(self, mask: np.ndarray) -> None:
        self._mask = mask

    def mask(self) -> np.ndarray:
        return self._mask

    def mean_quality(self) -> float:
        return 0.5


@pytest.fixture
def target() -> Target:
    (region,) = regions_of(TRUTH)
    sample = Sample(id="a", image=Path("none.png"), label="hole")
    return Target(sample, WHOLE, (80, 60), region.box_xyxy, region, low_mask(TRUTH))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """Answer one more row of the truth with every prompt."""
    prompts: list[Prompt] = []

    def say(shown, prompt, size_wh, *_):
        prompts.append(prompt)
        mask = TRUTH.copy()
        mask[10 + 10 * int((prompt.labels == 1).sum()) :] = False
        return _Said(mask)

    monkeypatch.setattr(evaluate, "answer", lambda sam, *args: say(*args))
    monkeypatch.setattr(evaluate, "corrected", say)
    return prompts


def test_one_chain_of_clicks_answers_all_their_kinds(target: Target, asked: list[Prompt]) -> None:
    results = prompted(None, None, [target], KINDS)  # type: ignore[arg-type]
    assert list(results) == list(KINDS)
    ious = {kind: rows[0].iou for kind, rows in results.items() if kind.endswith(("k", "s"))}
    # Four clicks answer all of it, so a fifth has nothing to correct.
    assert ious == pytest.approx({"1-click": 0.25, "3-clicks": 0.75, "5-clicks": 1.0})
    assert [int((p.labels == 1).sum()) for p in asked] == [0, 0, 1, 2, 3, 4]


def test_the_jitter_is_the_same_for_every_model(target: Target, asked: list[Prompt]) -> None:
    for _ in range(2):
        prompted(None, None, [target], FIRST_KINDS)  # type: ignore[arg-type]
    box, jittered = asked[0].coords, asked[1].coords
    assert box.tolist() == [[20, 10], [59, 49]]
    assert jittered.tolist() != box.tolist()
    assert asked[4].coords.tolist() == jittered.tolist()


def test_results_name_their_region(target: Target, asked: list[Prompt]) -> None:
    (one, two) = prompted(None, None, [target, target], ["box"])["box"]  # type: ignore[arg-type]
    assert (one.sample_id, one.region, one.area, one.label) == ("a", 0, 1600, "hole")
    assert two.region == 1
