"""Columns of the leaderboard: a known metric, or a dotted path into `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.errors import ConfigError, did_you_mean
from toolkit.metrics.values import MetricError, Undefined, Value, value_from_json

NOT_GIVEN = Undefined("the method does not report it")


@dataclass(frozen=True)
class Column:
    """One metric.

    Attributes:
        name: as in `--columns` and `--sort`.
        heading: as displayed over the column.
        path: dotted path into `metrics.json`.
        about: one phrase for the legend; empty where the heading is enough.
        digits: decimal places.
        lower_is_better: whether small values come first.
        interval: name of its interval in `metrics.json`; empty where there is none.
        with_interval: whether the interval is displayed wherever the column is.
    """

    name: str
    heading: str
    path: str
    about: str = ""
    digits: int = 3
    lower_is_better: bool = False
    interval: str = ""
    with_interval: bool = False


def _image(name: str, heading: str, path: str, about: str, *, lower: bool = False) -> Column:
    return Column(
        name, heading, f"image.{path}", about, lower_is_better=lower, interval=path.split(".")[-1]
    )


def _classes(name: str, heading: str, path: str, about: str) -> Column:
    whole = f"classification.{path}"
    return Column(name, heading, whole, about, interval=whole)


def _wrong(name: str, heading: str, about: str, *, rate: bool = False) -> Column:
    return Column(
        name, heading, f"at_threshold.{name}", about, digits=3 if rate else 0, lower_is_better=True,
        interval=name, with_interval=not rate,
    )  # fmt: skip


def _cost(name: str, heading: str, path: str, about: str, digits: int = 0) -> Column:
    return Column(name, heading, f"speed.{path}", about, digits=digits, lower_is_better=True)


_ON_SCORES = "image level, on raw scores"
_AT_THRESHOLD = "image level, at the threshold chosen on validation"
_ALL = (
    _image("auroc", "AUROC", "auroc", _ON_SCORES),
    _image("ap", "AP", "average_precision", _ON_SCORES),
    _image("f1", "F1", "decisions.f1", _AT_THRESHOLD),
    _image("f1_max", "F1-max", "f1_max", "best F1 over all thresholds, chosen on the test images"),
    _image("accuracy", "acc", "decisions.accuracy", _AT_THRESHOLD),
    _image(
        "balanced_accuracy", "image balanced acc", "decisions.balanced_accuracy",
        "mean of recall and of good images that pass, at the threshold",
    ),
    _image("recall", "recall", "decisions.recall", _AT_THRESHOLD),
    _image("fpr", "FPR", "decisions.false_alarm_rate", "share of good images flagged at the "
           "threshold", lower=True),
    _wrong("escapes", "escapes", "defective images below the threshold, with 95 % interval"),
    _wrong("overkill", "overkill", "good images at or above the threshold, with 95 % interval"),
    _wrong("escape_rate", "escape rate", "share of defective images below the threshold; its "
           "interval is that of Clopper and Pearson", rate=True),
    _wrong("overkill_rate", "overkill rate", "share of good images at or above the threshold; its "
           "interval is that of Clopper and Pearson", rate=True),
    Column("val_images", "val images", "at_threshold.val_images",
           "validation images that the threshold was chosen with", digits=0),
    Column("promise", "promise", "at_threshold.promised_overkill_rate", "share of good products "
           "that is flagged at most, at 95 % confidence; without a value where the threshold was "
           "chosen with defects", lower_is_better=True),
    _image("tpr_at_fpr_1", "TPR@FPR1%", "tpr_at_fpr_1", "recall at 1 % false alarms"),
    _image("tpr_at_fpr_5", "TPR@FPR5%", "tpr_at_fpr_5", "recall at 5 % false alarms"),
    _image("fpr_at_tpr_95", "FPR@TPR95%", "fpr_at_tpr_95", "false-alarm rate at 95 % recall",
           lower=True),
    Column("map50", "mAP50", "boxes.map50", "boxes", interval="map50"),
    Column("map50_95", "mAP50-95", "boxes.map50_95", "boxes"),
    Column("ar100", "AR100", "boxes.ar100", "mean recall of boxes"),
    Column("mask_iou", "IoU", "masks.iou", "union mask on defective images", interval="mask_iou"),
    Column("dice", "Dice", "masks.dice", "union mask on defective images", interval="dice"),
    Column("boundary_iou", "boundary IoU", "masks.boundary_iou",
           "IoU of boundary bands of 2 % of the diagonal", interval="boundary_iou"),
    Column("pixel_auroc", "pixel AUROC", "pixel.auroc"),
    Column("pixel_ap", "pixel AP", "pixel.average_precision"),
    Column("pixel_f1", "pixel F1-max", "pixel.f1_max", "best pixel F1 over all thresholds"),
    Column("aupro", "AUPRO", "pixel.aupro.0.3", "area under PRO to 0.3", interval="aupro_0.3"),
    Column("aupro_05", "AUPRO@5%", "pixel.aupro.0.05", "area under PRO to 0.05",
           interval="aupro_0.05"),
    _classes("class_accuracy", "class acc", "accuracy", "share of correct classes"),
    _classes("class_balanced_accuracy", "balanced acc", "balanced_accuracy",
             "mean class recall (ACSA)"),
    _classes("macro_f1", "macro F1", "macro_f1", "mean F1 of the classes"),
    _classes("geometric_mean", "G-mean", "geometric_mean", "geometric mean of class recalls"),
    _cost("latency", "latency ms", "ms_per_image_median", "median per image, from the decoded "
          "image to the result (from the file, where no benchmark has measured it alone)"),
    _cost("latency_p95", "p95 ms", "ms_per_image_p95", "95th percentile of the latency"),
    _cost("decode", "decode ms", "decode_ms_median", "median per image, from file to pixels"),
    Column("images_per_second", "images/s", "speed.images_per_second", digits=1),
    _cost("fit_seconds", "fit s", "fit_seconds", "training time, summed over folds"),
    _cost("memory", "memory MB", "peak_memory_mb", "peak memory of training and prediction"),
    _cost("parameters", "params M", "parameters_millions", "parameters, in millions", digits=2),
    _cost("checkpoint", "checkpoint MB", "checkpoint_mb", "files that prediction needs", digits=1),
)  # fmt: skip

KNOWN: Mapping[str, Column] = {column.name: column for column in _ALL}
TEXTS = ("labels", "weights", "published")
"""Columns that hold words (`published` a metric with its source)."""
DEFAULT = (
    "auroc", "f1", "escapes", "overkill", "map50", "mask_iou", "pixel_auroc", "aupro",
    "labels", "fit_seconds", "latency",
)  # fmt: skip

_LOWER = (
    "loss", "seconds", "false_alarm", "fpr", "ms_per_image", "memory", "parameters", "checkpoint",
)  # fmt: skip


def column(name: str) -> Column:
    """Return a known column, or the one of a dotted path."""
    if name in KNOWN:
        return KNOWN[name]
    known = next((one for one in _ALL if one.path == name), None)
    if known is not None:
        return replace(known, name=name)
    last = name.rsplit(".", 1)[-1]
    lower = any(word in name for word in _LOWER)
    # Intervals of classification stand under their figures' own paths.
    interval = name if name.startswith("classification.") else ""
    return Column(name, last, name, name, lower_is_better=lower, interval=interval)


def parse_names(text: str) -> tuple[str, ...]:
    """Split `a,b,c` into names.

    Raises:
        ConfigError: there is none.
    """
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not names:
        raise ConfigError("--columns: no names; give some, such as: --columns auroc,ap,latency")
    return names


def check_names(names: Iterable[str], trees: Sequence[Mapping[str, Any]], *, option: str) -> None:
    """Check that each name is a known column, or a path into one of the trees.

    Args:
        names: as the user typed them.
        trees: contents of `metrics.json`.
        option: the option to name in the error.

    Raises:
        ConfigError: there is no such column or path.
    """
    for name in names:
        if name in KNOWN or name in TEXTS or any(lookup(tree, name) is not None for tree in trees):
            continue
        paths = {path for tree in trees for path in _paths(tree)} if "." in name else set()
        hint = did_you_mean(name, [*KNOWN, *TEXTS, *sorted(paths)] if paths else [*KNOWN, *TEXTS])
        raise ConfigError(f"{option} {name}: no such column{hint}")


def expanded(names: Iterable[str], trees: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Replace a path to several metrics by one column each, such as the recall of each class.

    Args:
        names: of columns.
        trees: contents of `metrics.json`.
    """
    found: dict[str, None] = {}
    for name in names:
        below = {
            key
            for tree in trees
            if name not in KNOWN and isinstance(there := lookup(tree, name), Mapping)
            for key in there
            if "reason" not in there
        }
        found.update(dict.fromkeys([f"{name}.{key}" for key in sorted(below)] or [name]))
    return tuple(found)


def value_at(metrics: Mapping[str, Any], path: str) -> Value:
    """Return the metric at a dotted path.

    Raises:
        MetricError: it is NaN or infinite.
    """
    found = lookup(metrics, path)
    if found is None:
        return NOT_GIVEN
    if isinstance(found, bool | list) or (isinstance(found, Mapping) and "reason" not in found):
        return Undefined("not a single number")
    if isinstance(found, str):
        # A damaged metric must not pass as one that was never reported.
        if path in {column.path for column in _ALL}:
            raise MetricError(f"{path} is {found!r} and no number")
        return Undefined("not a number")
    return value_from_json(found)


def lookup(tree: Any, path: str) -> Any:
    """Return the object at a dotted path, None if there is none.

    Keys may hold dots themselves, as in `pixel.aupro.0.3`. A path below a metric without a value
    leads to its reason.
    """
    if not isinstance(tree, Mapping):
        return None
    if path in tree:
        return tree[path]
    if tree.get("reason") and tree.get("value", 0) is None:
        return tree
    for cut, letter in enumerate(path):
        if letter == "." and path[:cut] in tree:
            found = lookup(tree[path[:cut]], path[cut + 1 :])
            if found is not None:
                return found
    return None


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, below in tree.items():
        if isinstance(below, Mapping) and "reason" not in below:
            yield from _paths(below, f"{prefix}{key}.")
        elif isinstance(below, int | float | Mapping) and not isinstance(below, bool):
            yield f"{prefix}{key}"
