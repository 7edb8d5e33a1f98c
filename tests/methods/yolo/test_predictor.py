"""Boxes in the pixels of the original image, and fused views."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from toolkit import ultralytics_env
from toolkit.d4 import ALL
from toolkit.methods.yolo.predictor import YoloPredictor


class _Stub:
    """A network that sees given boxes, in the pixels of its resized and padded input."""

    stride = torch.tensor([8.0, 16.0, 32.0])
    names = {0: "crack", 1: "dirt"}  # noqa: RUF012 - as Ultralytics has it

    def __init__(self, *rows: tuple[float, ...]) -> None:
        # One column per candidate: centre, size, one score per class.
        self._rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        self.seen = SimpleNamespace(shape=None)

    def __call__(self, batch: torch.Tensor) -> Any:
        self.seen = batch
        return self._rows.T[None]


@pytest.fixture(autouse=True)
def _prepared() -> None:
    ultralytics_env.prepare()


def _detect(network: Any, size_wh: tuple[int, int], image_size: int = 64, iou: float = 0.7) -> Any:
    image = np.full((size_wh[1], size_wh[0], 3), (255, 0, 0), np.uint8)
    return YoloPredictor(network, image_size=image_size, nms_iou=iou).detect(image)


@pytest.mark.parametrize(
    ("size_wh", "row", "expected"),
    [
        ((64, 64), (32, 16, 20, 10, 0.9, 0), (22, 11, 42, 21)),  # as large as the input
        ((128, 128), (32, 16, 20, 10, 0.9, 0), (44, 22, 84, 42)),  # halved on the way in
        ((128, 64), (32, 16, 20, 10, 0.9, 0), (44, 22, 84, 42)),  # 64 by 32: no padding needed
        ((128, 96), (32, 40, 20, 10, 0.9, 0), (44, 54, 84, 74)),  # 64 by 48, padded by 8 above
        ((64, 64), (60, 60, 20, 20, 0.9, 0), (50, 50, 64, 64)),  # cut at the image's edge
    ],
)
def test_boxes_are_in_original_pixels(
    size_wh: tuple[int, int], row: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    boxes = _detect(_Stub(row), size_wh)
    if size_wh == (128, 96):
        # 48 rows become 64: 8 above, 8 below.
        expected = (44, (40 - 5 - 8) * 2, 84, (40 + 5 - 8) * 2)
    np.testing.assert_allclose(boxes.xyxy, [expected], atol=1e-4)
    assert boxes.xyxy.dtype == np.float32
    assert boxes.labels == ("crack",)


def test_the_network_sees_rgb_between_zero_and_one() -> None:
    stub = _Stub((32, 32, 8, 8, 0.5, 0))
    _detect(stub, (64, 64))
    assert stub.seen.shape == (1, 3, 64, 64)
    assert stub.seen[0, :, 32, 32].tolist() == [1.0, 0.0, 0.0]


def test_the_floor_the_order_and_the_classes() -> None:
    boxes = _detect(
        _Stub(
            (10, 10, 8, 8, 0.0009, 0.0),  # below the floor
            (30, 30, 8, 8, 0.2, 0.0011),  # one place, both classes
            (50, 50, 8, 8, 0.0, 0.7),
        ),
        (64, 64),
    )
    assert boxes.labels == ("dirt", "crack", "dirt")
    np.testing.assert_allclose(boxes.scores, [0.7, 0.2, 0.0011], atol=1e-6)


@pytest.mark.parametrize(("iou", "left"), [(0.7, 1), (0.9, 2)])
def test_overlapping_boxes_of_one_class_are_one(iou: float, left: int) -> None:
    # 20 by 20 boxes, 2 pixels apart: they share 360 of 440 pixels.
    stub = _Stub((30, 30, 20, 20, 0.9, 0), (32, 30, 20, 20, 0.8, 0))
    assert len(_detect(stub, (64, 64), iou=iou)) == left


def test_predictions_have_the_highest_score_and_do_not_depend_on_the_batch() -> None:
    predictor = YoloPredictor(
        _Stub((30, 30, 20, 20, 0.9, 0), (50, 50, 8, 8, 0.3, 0.6)), image_size=64, nms_iou=0.7
    )
    images = [np.zeros((64, 64, 3), np.uint8), np.zeros((128, 96, 3), np.uint8)]
    both = predictor.predict(images)
    assert [p.score for p in both] == [pytest.approx(0.9)] * 2
    for image, prediction in zip(images, both, strict=True):
        (alone,) = predictor.predict([image])
        np.testing.assert_array_equal(alone.boxes.xyxy, prediction.boxes.xyxy)
    nothing = YoloPredictor(_Stub((10, 10, 8, 8, 0, 0)), image_size=64, nms_iou=0.7)
    assert nothing.predict(images[:1])[0].score == 0


def test_nothing_found_is_no_box() -> None:
    boxes = _detect(_Stub((10, 10, 8, 8, 0, 0)), (64, 64))
    assert len(boxes) == 0
    assert boxes.xyxy.shape == (0, 4)


def test_what_the_background_describes_best_is_dropped() -> None:
    stub = _Stub((10, 10, 8, 8, 0.9, 0.2), (50, 50, 8, 8, 0.3, 0.6))
    image = np.zeros((64, 64, 3), np.uint8)
    found = YoloPredictor(stub, image_size=64, nms_iou=0.7, background="dirt").detect(image)
    assert found.labels == ("crack",)  # no box of the background itself, and not the second one
    np.testing.assert_allclose(found.xyxy, [[6, 6, 14, 14]], atol=1e-4)


def test_fused_views_come_back_to_the_picture() -> None:
    class Spot:
        """Sees the one bright square, wherever the view has put it."""

        stride = torch.tensor([32.0])
        names = {0: "crack"}  # noqa: RUF012

        def __call__(self, batch: torch.Tensor) -> Any:
            rows, columns = torch.nonzero(batch[0, 0] > 0.9, as_tuple=True)
            x0, x1 = columns.min().item(), columns.max().item() + 1
            y0, y1 = rows.min().item(), rows.max().item() + 1
            row = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, 0.8]
            return torch.tensor(row).reshape(1, 5, 1)

    image = np.zeros((128, 192, 3), np.uint8)
    image[16:48, 96:176] = 255
    predictor = YoloPredictor(Spot(), image_size=96, nms_iou=0.7, transforms=ALL)
    found = predictor.detect(image)
    np.testing.assert_allclose(found.xyxy, [[96, 16, 176, 48]], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.8], atol=1e-6)
