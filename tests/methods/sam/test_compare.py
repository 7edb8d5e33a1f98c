from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.methods.sam.compare import compare, size_of
from toolkit.methods.sam.evaluate import RegionResult


def _result(iou: float, *, label: str = "hole", area: int = 5000, region: int = 0) -> RegionResult:
    return RegionResult(
        sample_id="a", label=label, region=region, area=area, kind="box", iou=iou,
        dice=2 * iou / (1 + iou), boundary_iou=iou / 2, quality=0.7,
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
