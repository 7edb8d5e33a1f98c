"""Thumbnails, heat maps, outlines and boxes: in the right place, and small."""

from __future__ import annotations

import io
import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from toolkit.prediction import Boxes
from toolkit.reporting.images import (
    heat_colors,
    heat_gradient,
    heat_map,
    mask_path,
    select_boxes,
    thumbnail,
    thumbnail_edge,
)


def filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Draw the path's corners, even-odd."""
    drawn = np.zeros(shape, np.uint8)
    for part in re.findall(r"M([^z]*)z", path):
        if "h" in part:
            x, y, w, h = (int(v) for v in re.findall(r"\d+", part)[:4])
            one = np.zeros(shape, np.uint8)
            one[y : y + h, x : x + w] = 1
        else:
            values = np.array([float(v) for v in part.split()]).reshape(-1, 2) - 0.5
            one = cv2.fillPoly(np.zeros(shape, np.uint8), [values.round().astype(np.int32)], 1)
        drawn ^= one
    return drawn.astype(np.bool_)


def test_an_empty_mask_has_no_outline() -> None:
    assert mask_path(np.zeros((5, 6), np.bool_)) == ""


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(2, 8), slice(3, 20)),  # a rectangle
        (slice(0, 30), slice(0, 40)),  # everything
        (slice(4, 5), slice(6, 7)),  # one pixel
        (slice(4, 5), slice(6, 16)),  # a line
    ],
)
def test_a_filled_outline_is_the_mask(rows: slice, columns: slice) -> None:
    mask = np.zeros((30, 40), np.bool_)
    mask[rows, columns] = True
    assert (filled(mask_path(mask), mask.shape) == mask).all()


def test_a_hole_stays_open() -> None:
    mask = np.zeros((60, 60), np.bool_)
    mask[10:50, 10:50] = True
    mask[25:35, 25:35] = False
    path = mask_path(mask)
    assert path.count("M") == 2
    assert not filled(path, mask.shape)[30, 30]
    assert filled(path, mask.shape)[15, 15]


@given(st.integers(3, 90), st.integers(3, 90), st.integers(1, 60))
def test_a_disc_stays_within_the_tolerance(x: int, y: int, radius: int) -> None:
    mask = cv2.circle(np.zeros((300, 400), np.uint8), (x, y), radius, 1, -1).astype(np.bool_)
    kernel = np.ones((3, 3), np.uint8)
    drawn = filled(mask_path(mask), mask.shape)
    assert not (drawn & ~cv2.dilate(mask.astype(np.uint8), kernel).astype(np.bool_)).any()
    assert not (cv2.erode(mask.astype(np.uint8), kernel).astype(np.bool_) & ~drawn).any()


def boxes(*scores: float) -> Boxes:
    xyxy = np.tile(np.array([[1, 2, 3.14159, 4]], np.float32), (len(scores), 1))
    return Boxes(xyxy, np.array(scores, np.float32), tuple(f"c{i}" for i in range(len(scores))))


@pytest.mark.parametrize(
    ("scores", "threshold", "labels"),
    [
        ((0.2, 0.9, 0.25, 0.01), None, ["c1", "c2"]),  # from 0.25
        ((0.2, 0.9, 0.25, 0.01), 0.1, ["c1", "c2"]),  # weak ones stay out where others are sure
        ((0.2, 0.9, 0.25, 0.01), 0.5, ["c1", "c2"]),  # a higher threshold hides no box
        ((0.1, 0.2, 0.15), 0.1, ["c1"]),  # a flagged image always has a box
        ((0.1, 0.2, 0.15), 0.21, []),  # not flagged
        ((0.1, 0.2, 0.15), None, []),
        ((0.1, 0.2, 0.15), -3.0, []),  # a threshold on another scale is none for boxes
        ((), 0.1, []),
    ],
)
def test_which_boxes_are_selected(
    scores: tuple[float, ...], threshold: float | None, labels: list[str]
) -> None:
    selected = select_boxes(boxes(*scores) if scores else Boxes.none(), threshold)
    assert [box[5] for box in selected] == labels
    assert all(box[:4] == (1, 2, 3.1, 4) for box in selected)


def test_at_most_ten_boxes() -> None:
    assert len(select_boxes(boxes(*[0.9] * 40), None)) == 10
    assert select_boxes(Boxes.none(), 0.1) == []


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    return image


def test_thumbnails_shrink_and_never_grow() -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    image[..., 0] = 200
    assert opened(thumbnail(image, 60)).size == (60, 45)
    small = opened(thumbnail(image, 640)).convert("RGB")
    assert small.size == (120, 90)
    red, green, blue = small.getpixel((60, 45))  # type: ignore[misc]
    assert abs(red - 200) < 12
    assert max(green, blue) < 12


def test_heat_glows_where_the_score_is_high() -> None:
    heat = np.zeros((40, 40), np.float32)
    heat[:20] = 2.0
    picture = np.asarray(opened(heat_map(heat, (0.0, 1.0))).convert("RGBA"))
    assert picture[30, 20, 3] < 10  # clear
    assert picture[10, 20, 3] > 200
    assert picture[10, 20, :3].sum() > 500


def test_a_flat_range_does_no_harm() -> None:
    assert heat_map(np.ones((4, 4), np.float32), (1.0, 1.0))


def test_the_legend_has_the_colours_of_the_map() -> None:
    first, *_, last = re.findall(r"rgb\((\d+) (\d+) (\d+) / ([\d.]+)\)", heat_gradient())
    assert tuple(map(int, last[:3])) == tuple(heat_colors()[255].tolist())
    assert float(first[3]) == 0


@pytest.mark.parametrize(("n", "edge"), [(1, 640), (200, 640), (800, 320), (10**6, 160)])
def test_many_images_are_smaller(n: int, edge: int) -> None:
    assert thumbnail_edge(n) == edge
