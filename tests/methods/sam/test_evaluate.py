"""True prompts: which prediction belongs to which kind, and how clicks follow each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toolkit.data.regions import regions_of
from toolkit.data.types import Sample
from toolkit.methods.sam import evaluate
from toolkit.methods.sam.evaluate import (
    FIRST_KINDS,
    KINDS,
    Evaluated,
    RegionResult,
    choose_decoders,
    compare,
    evaluate_prompts,
    joined_iou,
    size_of,
)
from toolkit.methods.sam.targets import Target, low_res_mask
from toolkit.methods.sam.tta import WHOLE
from toolkit.runtime.prompts import Prompt

MODEL = Evaluated(None)  # type: ignore[arg-type]
TRUTH = np.zeros((60, 80), bool)
TRUTH[10:50, 20:60] = True


class _Prediction:
    def __init__(self, mask: np.ndarray) -> None:
        self._mask = mask

    def mask(self, threshold: float) -> np.ndarray:
        return self._mask

    def mean_iou_prediction(self) -> float:
        return 0.5


@pytest.fixture
def target() -> Target:
    (region,) = regions_of(TRUTH)
    sample = Sample(id="a", image=Path("none.png"), label="hole")
    return Target(sample, WHOLE, (80, 60), region.box_xyxy, region, low_res_mask(TRUTH))


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """Predict ten more rows of the truth with every click."""
    seen: list[Prompt] = []

    def predict(embedding_of, prompt, size_wh, *_):
        seen.append(prompt)
        mask = TRUTH.copy()
        mask[10 + 10 * int((prompt.labels == 1).sum()) :] = False
        return _Prediction(mask)

    monkeypatch.setattr(
        evaluate,
        "predict_masks",
        lambda decoders, embedding_of, prompts, *args: [
            predict(embedding_of, one, *args) for one in prompts
        ],
    )
    monkeypatch.setattr(evaluate, "refine", predict)
    return seen


def test_one_chain_of_clicks_serves_all_their_kinds(target: Target, prompts: list[Prompt]) -> None:
    results = evaluate_prompts(MODEL, None, [target], KINDS)  # type: ignore[arg-type]
    assert list(results) == list(KINDS)
    ious = {kind: rows[0].iou for kind, rows in results.items() if kind.endswith(("k", "s"))}
    # Four clicks find all of it, so a fifth has nothing to correct.
    assert ious == pytest.approx({"1-click": 0.25, "3-clicks": 0.75, "5-clicks": 1.0})
    assert [int((p.labels == 1).sum()) for p in prompts] == [0, 0, 1, 2, 3, 4]


def test_the_jitter_is_the_same_for_every_model(target: Target, prompts: list[Prompt]) -> None:
    for _ in range(2):
        evaluate_prompts(MODEL, None, [target], FIRST_KINDS)  # type: ignore[arg-type]
    box, jittered = prompts[0].coords, prompts[1].coords
    assert box.tolist() == [[20, 10], [59, 49]]
    assert jittered.tolist() != box.tolist()
    assert prompts[4].coords.tolist() == jittered.tolist()


def test_results_name_their_region(target: Target, prompts: list[Prompt]) -> None:
    (one, two) = evaluate_prompts(MODEL, None, [target, target], ["box"])["box"]  # type: ignore[arg-type]
    assert (one.sample_id, one.region, one.area, one.label) == ("a", 0, 1600, "hole")
    assert one.longest == 0.5
    assert two.region == 1


def _result(
    iou: float, *, label: str = "hole", area: int = 5000, region: int = 0, longest: float = 0.5
) -> RegionResult:
    return RegionResult(
        sample_id="a", label=label, region=region, area=area, longest=longest, kind="box", iou=iou,
        dice=2 * iou / (1 + iou), boundary_iou=iou / 2, predicted_iou=0.7,
    )  # fmt: skip


BEFORE = [_result(0.4), _result(0.6, region=1), _result(0.2, label="crack", area=100, region=2)]
AFTER = [replace(r, iou=r.iou + 0.3) for r in BEFORE]


def test_means_and_difference() -> None:
    found = compare(BEFORE, AFTER)
    assert found["regions"] == 3
    assert found["zero_shot"] == pytest.approx(0.4)
    assert found["tuned"] == pytest.approx(0.7)
    assert found["difference"] == pytest.approx(0.3)
    # every region gained the same, so the paired interval has no width
    assert found["interval"]["low"] == pytest.approx(0.3)
    assert found["interval"]["high"] == pytest.approx(0.3)
    assert found["boundary_iou"]["zero_shot"] == pytest.approx(0.2)


def test_groups_by_type_and_size() -> None:
    found = compare(BEFORE, AFTER)
    assert found["by_type"]["crack"] == pytest.approx(
        {"regions": 1, "zero_shot": 0.2, "tuned": 0.5}
    )
    assert found["by_size"]["small"]["tuned"] == pytest.approx(0.5)
    assert found["by_size"]["medium"]["regions"] == 2


def test_calibration_is_the_error_of_the_predicted_iou() -> None:
    found = compare(BEFORE, AFTER)["calibration"]
    assert found["zero_shot"] == pytest.approx({"mean_error": 0.3, "bias": 0.3})
    assert found["tuned"] == pytest.approx({"mean_error": 0.4 / 3, "bias": 0.0}, abs=1e-9)


@pytest.mark.parametrize(
    ("area", "name"),
    [(1, "small"), (1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")],
)
def test_sizes_have_the_limits_of_coco(area: int, name: str) -> None:
    assert size_of(_result(0.5, area=area)) == name


def test_other_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        compare(BEFORE[:2], AFTER[1:])


def _results(small: list[float], large: list[float]) -> dict[str, list[RegionResult]]:
    rows = [_result(iou, longest=0.1) for iou in small] + [_result(iou) for iou in large]
    return {"box": rows, "1-click": [replace(row, iou=1 - row.iou) for row in rows]}


@pytest.mark.parametrize(
    ("small", "large", "box", "click"),
    [
        # (before, after) and how many regions: by size of region, what answers boxes and clicks
        ((0.5, 0.4, 8), (0.5, 0.6, 8), ("zero_shot", "tuned"), ("tuned", "zero_shot")),
        # few regions of a size follow all
        ((0.5, 0.4, 7), (0.5, 0.6, 8), ("tuned", "tuned"), ("zero_shot", "zero_shot")),
        ((0.5, 0.4, 7), (0.5, 0.5, 7), ("zero_shot", "zero_shot"), ("tuned", "tuned")),
        ((0.5, 0.5, 9), (0.5, 0.5, 9), ("tuned", "tuned"), ("tuned", "tuned")),  # no better
        ((0.5, 0.5, 0), (0.5, 0.5, 0), ("tuned", "tuned"), ("tuned", "tuned")),  # nothing to see
    ],
)
def test_the_decoder_that_validates_better_answers(small, large, box, click) -> None:
    before = _results([small[0]] * small[2], [large[0]] * large[2])
    after = _results([small[1]] * small[2], [large[1]] * large[2])
    found = choose_decoders(before, after, crop_below=0.2)
    for kind, wanted in (("box", box), ("click", click)):
        assert tuple(found[kind][size]["decoder"] for size in ("small", "large")) == wanted


def test_true_boxes_of_an_image_are_joined(target: Target, prompts: list[Prompt]) -> None:
    assert joined_iou(MODEL, None, [target, target]) == pytest.approx(0)  # type: ignore[arg-type]
    assert len(prompts) == 2
    assert joined_iou(MODEL, None, []) is None  # type: ignore[arg-type]
