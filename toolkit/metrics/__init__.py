"""Metrics as pure functions: NumPy arrays in, frozen dataclasses out.

Higher scores are worse, an image or pixel is flagged when `score >= threshold`, and what has no
value is `Undefined` with a reason. Importing this package imports nothing heavier than NumPy.
"""

from toolkit.metrics.bootstrap import (
    Interval,
    bootstrap_mean,
    image_difference_intervals,
    image_intervals,
    image_resamples,
    interval_of,
    resample_counts,
)
from toolkit.metrics.box_bootstrap import Detections, map50_resamples, match_boxes
from toolkit.metrics.boxes import BoxMetrics, PredictedBoxes, TrueBoxes, box_metrics
from toolkit.metrics.classification import (
    ClassificationMetrics,
    classification_intervals,
    classification_metrics,
    classification_resamples,
)
from toolkit.metrics.image import (
    DecisionMetrics,
    ImageMetrics,
    decision_metrics,
    flagged,
    image_metrics,
)
from toolkit.metrics.masks import (
    MaskMetrics,
    MaskValues,
    boundary_iou,
    mask_dice,
    mask_iou,
    mask_values,
    mean_of_masks,
)
from toolkit.metrics.pixel import PixelMetrics, RegionMetrics, pixel_metrics
from toolkit.metrics.sizes import SIZE_EDGES, SIZES, size_names
from toolkit.metrics.threshold import f1_threshold, false_alarm_threshold
from toolkit.metrics.values import MetricError, Undefined, Value, to_json, value_from_json

__all__ = [
    "SIZES",
    "SIZE_EDGES",
    "BoxMetrics",
    "ClassificationMetrics",
    "DecisionMetrics",
    "Detections",
    "ImageMetrics",
    "Interval",
    "MaskMetrics",
    "MaskValues",
    "MetricError",
    "PixelMetrics",
    "PredictedBoxes",
    "RegionMetrics",
    "TrueBoxes",
    "Undefined",
    "Value",
    "bootstrap_mean",
    "boundary_iou",
    "box_metrics",
    "classification_intervals",
    "classification_metrics",
    "classification_resamples",
    "decision_metrics",
    "f1_threshold",
    "false_alarm_threshold",
    "flagged",
    "image_difference_intervals",
    "image_intervals",
    "image_metrics",
    "image_resamples",
    "interval_of",
    "map50_resamples",
    "mask_dice",
    "mask_iou",
    "mask_values",
    "match_boxes",
    "mean_of_masks",
    "pixel_metrics",
    "resample_counts",
    "size_names",
    "to_json",
    "value_from_json",
]
