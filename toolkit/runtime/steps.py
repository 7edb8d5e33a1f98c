"""From an image to a network's input, and from its outputs to an answer; without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from toolkit.runtime.answer import Answer
from toolkit.runtime.boxes import (
    CONFIDENCE_FLOOR,
    Found,
    letterbox,
    resize,
    resize_longest,
    suppress,
    turn,
    turn_boxes_back,
    weighted_boxes_fusion,
)
from toolkit.runtime.segmentation import SegmentationSteps
from toolkit.runtime.tiles import detect_in_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.runtime.segmentation import Ask

    Network = Callable[..., Sequence[NDArray[np.float32]]]

_MAX_BOXES, _MAX_CANDIDATES, _CLASS_OFFSET = 300, 30000, 7680
_SAMPLED = 16  # pixels of a map of which one is looked at first
_TRUNCATE = 4.0  # standard deviations, as scipy's gaussian_filter, which the papers' codes use


# --- From an image to the network's input, and from its outputs to an answer ---------------------


class Steps(Protocol):
    """From an image to an answer, with a network between."""

    def predict(self, image: NDArray[np.uint8], network: Network) -> Answer:
        """Return the answer for an RGB image (H, W, 3)."""


class MapSteps:
    """Scores of patches become a smoothed map and an image score.

    Args:
        record: `input_hw`, `smoothing_sigma`, `image_score`.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        height, width = record["input_hw"]
        self._input_hw = (int(height), int(width))
        self._sigma, self._how = float(record["smoothing_sigma"]), str(record["image_score"])

    def predict(self, image: NDArray[np.uint8], network: Network) -> Answer:
        """Return the answer for an RGB image (H, W, 3)."""
        cells, *score = network(resize_averaged(image, self._input_hw)[None])
        return self.answer(cells, float(score[0].item()) if score else None)

    def answer(self, cells: NDArray[np.float32], score: float | None) -> Answer:
        """Return the answer for scores of cells (rows, columns), and of the image if known."""
        anomaly_map = smooth(to_image_grid(cells, self._input_hw[::-1]), self._sigma)
        return Answer(
            image_score(anomaly_map, self._how) if score is None else score, anomaly_map=anomaly_map
        )


class ClassSteps:
    """Logits become probabilities and the log-odds of a defect.

    Args:
        record: `image_size` and `classes`, good first.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._size, self._classes = int(record["image_size"]), tuple(record["classes"])

    def predict(self, image: NDArray[np.uint8], network: Network) -> Answer:
        """Return the answer for an RGB image (H, W, 3)."""
        return self.answer(network(resize_square(image, self._size)[None])[0])

    def answer(self, logits: NDArray[np.float32]) -> Answer:
        """Return the answer for logits (1, classes)."""
        values = logits[0].astype(np.float64)
        shares = np.exp(values - values.max())
        highest = values[1:].max()
        odds = highest + math.log(np.exp(values[1:] - highest).sum()) - values[0]
        probabilities = (shares / shares.sum()).tolist()
        return Answer(float(odds), dict(zip(self._classes, probabilities, strict=True)))


class BoxSteps:
    """Candidates of a detector become boxes in pixels of the image.

    Args:
        record: `image_size`, `stride`, `nms_iou`, `classes`, `background` (a class that stands for
            no defect, or None), `views`: `turns` and `mirrored` of each flip and turn, and
            `full_size`: longest side of images that are cut into tiles of `image_size`; 0 or
            missing where they are not cut.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._size, self._stride = int(record["image_size"]), int(record["stride"])
        self._iou, self._classes = float(record["nms_iou"]), tuple(record["classes"])
        self._background = record.get("background")
        self._full_size = int(record.get("full_size", 0))
        self._views = [(int(v["turns"]), bool(v["mirrored"])) for v in record["views"]]

    def predict(self, image: NDArray[np.uint8], network: Network) -> Answer:
        """Return the answer for an RGB image (H, W, 3)."""
        if self._full_size:
            large = resize_longest(image, self._full_size)
            boxes = detect_in_tiles(large, self._size, lambda part: self._detect(part, network))
            scale = np.array([image.shape[1] / large.shape[1], image.shape[0] / large.shape[0]] * 2)
            boxes = boxes._replace(xyxy=(boxes.xyxy * scale).astype(np.float32))
        else:
            boxes = self._detect(image, network)
        return Answer(float(boxes.scores.max()) if len(boxes.scores) else 0.0, boxes=boxes)

    def _detect(self, image: NDArray[np.uint8], network: Network) -> Found:
        height, width = image.shape[:2]
        small = resize_longest(image, self._size)
        size_wh = (small.shape[1], small.shape[0])
        scale = np.array([width / size_wh[0], height / size_wh[1]] * 2, np.float32)
        views = []
        for turns, mirrored in self._views:
            found = self._in_view(turn(small, turns, mirrored=mirrored), network)
            xyxy = turn_boxes_back(found.xyxy, size_wh, turns, mirrored=mirrored) * scale
            views.append(Found(xyxy, found.scores, found.labels))
        return weighted_boxes_fusion(views)

    def _in_view(self, image: NDArray[np.uint8], network: Network) -> Found:
        padded, gains, offsets = letterbox(image, self._size, self._stride)
        outputs = network(padded[None])
        candidates = np.concatenate([np.asarray(one) for one in outputs], axis=1)[0]
        rows = self._end_to_end(candidates) if candidates.shape[1] == 6 else self._kept(candidates)
        height, width = image.shape[:2]
        limits, shift = np.array([width, height] * 2), np.array(offsets * 2)
        xyxy = np.clip((rows[:, :4] - shift) / np.array(gains * 2), 0, limits).astype(np.float32)
        labels = tuple(self._classes[int(index)] for index in rows[:, 5])
        return Found(xyxy, rows[:, 4].astype(np.float32), labels)

    def _end_to_end(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows[rows[:, 4] > CONFIDENCE_FLOOR][:_MAX_BOXES]

    def _kept(self, candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows `x0, y0, x1, y1, score, class` that are kept, best first."""
        scores = candidates[4:]
        if self._background is not None:
            index = self._classes.index(self._background)
            scores = np.where(scores.argmax(axis=0) != index, scores, 0)
            scores[index] = 0
        column, row = np.nonzero(scores.T > CONFIDENCE_FLOOR)  # a place may be of several classes
        centre, half = candidates[:2, column], candidates[2:4, column] / 2
        best = scores[row, column]
        order = np.argsort(-best, kind="stable")[:_MAX_CANDIDATES]
        rows = np.vstack([centre - half, centre + half, best, row.astype(np.float32)]).T[order]
        boxes = rows[:, :4] + rows[:, 5:6] * np.float32(_CLASS_OFFSET)  # classes lie apart
        return rows[suppress(boxes, self._iou, limit=_MAX_BOXES)]


_KINDS: dict[str, Callable[[Mapping[str, Any]], Steps]] = {
    "anomaly-map": MapSteps, "classification": ClassSteps, "detection": BoxSteps,
}  # fmt: skip


def make_steps(
    record: Mapping[str, Any],
    networks: Mapping[str, Network] | None = None,
    prompters: Mapping[str, Ask] | None = None,
) -> Steps:
    """Return the steps around a network that a record describes.

    Args:
        record: `kind`, and what that kind needs.
        networks: further ones, by name, which `segmentation` needs.
        prompters: what other models find in an image, by role, which it needs, too.
    """
    if record["kind"] == "segmentation":
        return SegmentationSteps(record, networks or {}, prompters or {})
    return _KINDS[record["kind"]](record)


def resize_averaged(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to rows and columns, every pixel counting; see `resize`."""
    return resize(image, size_hw[::-1])


def resize_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to a square, every pixel counting (the aspect ratio is not kept); see `resize`."""
    return resize(image, (size, size))


def to_image_grid(cells: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Spread the scores (h, w) of a patch grid bilinearly over the pixels of the resized image."""
    import cv2

    return np.asarray(cv2.resize(cells, size_wh, interpolation=cv2.INTER_LINEAR), np.float32)


def smooth(anomaly_map: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Smooth a map with a Gaussian of `sigma` pixels; edges are mirrored; 0 leaves it as it is."""
    import cv2

    if sigma <= 0:
        return anomaly_map
    side = 2 * math.floor(_TRUNCATE * sigma + 0.5) + 1
    kernel = cv2.getGaussianKernel(side, sigma, cv2.CV_32F)
    smoothed = cv2.sepFilter2D(anomaly_map, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(smoothed, np.float32)


def image_score(anomaly_map: NDArray[np.float32], how: str) -> float:
    """Return one score of the image from its map.

    Args:
        anomaly_map: float32 array (h, w).
        how: `max`, or `top_1_percent`: the mean of the highest one per cent of the map, which one
            noisy pixel cannot move.
    """
    if how == "max":
        return float(anomaly_map.max())
    values = anomaly_map.ravel()
    count = max(1, round(0.01 * values.size))
    # The highest values lie above what one in fifty of a sample exceeds, unless the sample
    # misleads; to order these few takes a fifth of the time and gives the same values.
    sample = values[::_SAMPLED]
    above = min(sample.size, 2 * count // _SAMPLED + 1)
    few = values[~(values < np.partition(sample, -above)[-above])]  # keeps what is not a number
    values = few if few.size >= count else values
    return float(np.partition(values, -count)[-count:].mean())
