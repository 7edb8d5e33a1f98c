from __future__ import annotations

import numpy as np
import pytest

from toolkit.methods.sam.prompts import (
    centre_pixel,
    click_on_error,
    likely_pixel,
    random_pixel,
    with_click,
)
from toolkit.runtime.prompts import (
    NEGATIVE,
    PADDING,
    POSITIVE,
    box_prompt,
    click_prompt,
    find_peaks,
)


def _mask(rows: list[str]) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def test_a_half_open_box_becomes_its_corner_pixels() -> None:
    prompt = box_prompt((10, 20, 60, 21))
    assert prompt.coords.tolist() == [[10, 20], [59, 20]]
    assert prompt.labels.tolist() == [2, 3]


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 4)])  # no width; negative height
def test_an_empty_box_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="empty"):
        box_prompt(box)


def test_boxes_and_clicks_have_equally_many_points_in_every_round() -> None:
    box, click = box_prompt((0, 0, 9, 9)), click_prompt(3, 4)
    for _ in range(3):
        assert len(box.labels) == len(click.labels)
        box = with_click(box, 1, 1, positive=False)
        click = with_click(click, 1, 1, positive=True)
    assert box.labels.tolist() == [2, 3, NEGATIVE, NEGATIVE, NEGATIVE]
    # the padding of a click stays last, where the decoder's authors put it
    assert click.labels.tolist() == [POSITIVE] * 4 + [PADDING]


def test_the_centre_is_inside_even_of_a_ring() -> None:
    mask = _mask(["#####", "#...#", "#...#", "#####"])
    x, y = centre_pixel(mask)
    assert mask[int(y), int(x)]


def test_the_centre_is_the_deepest_pixel() -> None:
    mask = _mask([".....", ".###.", ".###.", ".###.", "....."])
    assert centre_pixel(mask) == (2, 2)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (["...."], ["####"], True),  # everything missed: click on the object
        (["####"], ["...."], False),  # everything extra: click beside it
        (["##.."], [".###"], True),  # two pixels missed, one extra: the larger error counts
    ],
)
def test_a_correction_says_which_kind_of_error_it_is_on(
    predicted: list[str], truth: list[str], expected: bool
) -> None:
    found = click_on_error(_mask(predicted), _mask(truth))
    assert found is not None
    x, y, positive = found
    assert positive is expected
    assert _mask(truth)[int(y), int(x)] is np.bool_(expected)


def test_random_corrections_lie_on_errors_only() -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.random((2, 16, 16)) > 0.5
    for _ in range(50):
        x, y, positive = click_on_error(predicted, truth, rng)  # type: ignore[misc]
        assert predicted[int(y), int(x)] != truth[int(y), int(x)]
        assert truth[int(y), int(x)] == positive


def test_likely_clicks_lie_inside_and_deeper_than_chance() -> None:
    mask = np.zeros((41, 41), bool)
    mask[5:36, 5:36] = True
    rng = np.random.default_rng(0)

    def distance(x: float, y: float) -> float:
        return max(abs(x - 20), abs(y - 20))

    likely = [likely_pixel(mask, rng) for _ in range(300)]
    assert all(mask[int(y), int(x)] for x, y in likely)
    uniform = [random_pixel(mask, rng) for _ in range(300)]
    assert np.mean([distance(*p) for p in likely]) < 0.8 * np.mean([distance(*p) for p in uniform])
    assert max(distance(*p) for p in likely) > 12, "the rim is not left out"


def test_a_likely_click_on_a_single_pixel_is_that_pixel() -> None:
    assert likely_pixel(_mask(["...", ".#.", "..."]), np.random.default_rng(0)) == (1, 1)


def test_no_error_no_click_on_error() -> None:
    mask = _mask(["##", ".."])
    assert click_on_error(mask, mask) is None


def test_no_pixel_to_choose_from() -> None:
    empty = np.zeros((3, 3), bool)
    with pytest.raises(ValueError, match="no pixel"):
        random_pixel(empty, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no pixel"):
        centre_pixel(empty)
    with pytest.raises(ValueError, match="no pixel"):
        likely_pixel(empty, np.random.default_rng(0))


def test_peaks_are_the_separate_hills_highest_first() -> None:
    anomaly_map = np.zeros((50, 100), np.float32)
    anomaly_map[10, 20], anomaly_map[30, 80], anomaly_map[40, 50] = (
        3,
        5,
        1,
    )  # the last is under half
    found = find_peaks(anomaly_map, (200, 100), limit=5)
    assert [(x, y, v) for x, y, v in found] == [
        (pytest.approx(160.5), pytest.approx(60.5), 5),
        (pytest.approx(40.5), pytest.approx(20.5), 3),
    ]


def test_a_plateau_gives_one_peak_per_neighbourhood_and_the_limit_holds() -> None:
    found = find_peaks(np.ones((40, 40), np.float32), (40, 40), limit=4)
    assert len(found) == 4
    assert all(
        max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 2 for a in found for b in found if a is not b
    )
