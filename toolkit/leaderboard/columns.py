"""What a column of the leaderboard shows: a known figure, or a dotted path into `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.errors import ConfigError, did_you_mean
from toolkit.metrics.values import MetricError, Undefined, Value, value_from_json

NOT_GIVEN = Undefined("the method does not give it")


@dataclass(frozen=True)
class Column:
    """One figure.

    Attributes:
        name: as it is asked for.
        heading: as it stands over the column.
        path: dotted path into `metrics.json`.
        about: one phrase for the legend; empty where the heading says it.
        digits: decimal places.
        lower_is_better: whether small values come first.
        interval: name of its bootstrap interval in `metrics.json`; empty where there is none.
    """

    name: str
    heading: str
    path: str
    about: str = ""
    digits: int = 3
    lower_is_better: bool = False
    interval: str = ""


def _image(name: str, heading: str, path: str, about: str, *, lower: bool = False) -> Column:
    return Column(
        name, heading, f"image.{path}", about, lower_is_better=lower, interval=path.split(".")[-1]
    )


def _classes(name: str, heading: str, path: str, about: str) -> Column:
    whole = f"classification.{path}"
    return Column(name, heading, whole, about, interval=whole)


_FIGURES = (
    _image("auroc", "AUROC", "auroc", "image level, on raw scores"),
    _image("ap", "AP", "average_precision", "image level, on raw scores"),
    _image("f1", "F1", "decisions.f1", "at the threshold chosen on validation"),
    _image("f1_max", "F1-max", "f1_max", "best F1 over all thresholds, chosen on the test images"),
    _image("accuracy", "acc", "decisions.accuracy", "at the threshold chosen on validation"),
    _image(
        "balanced_accuracy", "bal.acc", "decisions.balanced_accuracy",
        "mean of recall and of good images that pass, at the threshold",
    ),
    _image("recall", "recall", "decisions.recall", "defects flagged at the threshold"),
    _image(
        "false_alarms", "FAR", "decisions.false_alarm_rate",
        "good images flagged at the threshold", lower=True,
    ),
    _image("recall_at_1", "R@1%", "tpr_at_fpr_1", "recall at 1 % false alarms"),
    _image("recall_at_5", "R@5%", "tpr_at_fpr_5", "recall at 5 % false alarms"),
    _image(
        "false_alarms_at_95", "FAR@95", "fpr_at_tpr_95",
        "false-alarm rate at 95 % recall", lower=True,
    ),
    Column("map50", "mAP50", "boxes.map50", "boxes", interval="map50"),
    Column("map50_95", "mAP50-95", "boxes.map50_95", "boxes"),
    Column("ar100", "AR100", "boxes.ar100", "mean recall of boxes"),
    Column("mask_iou", "IoU", "masks.iou", "union mask on defective images", interval="mask_iou"),
    Column("dice", "Dice", "masks.dice", "union mask on defective images", interval="dice"),
    Column(
        "boundary_iou", "bIoU", "masks.boundary_iou",
        "IoU of boundary bands of 2 % of the diagonal",
        interval="boundary_iou",
    ),
    Column("pixel_auroc", "pixel", "pixel.auroc", "pixel AUROC"),
    Column("pixel_ap", "pix.AP", "pixel.average_precision", "pixel average precision"),
    Column("pixel_f1", "pix.F1", "pixel.f1_max", "best pixel F1 over all thresholds"),
    Column("aupro", "AUPRO", "pixel.aupro.0.3", "area under PRO to 0.3", interval="aupro_0.3"),
    Column(
        "aupro_05", "AUPRO.05", "pixel.aupro.0.05", "area under PRO to 0.05",
        interval="aupro_0.05",
    ),
    _classes("class_accuracy", "class.acc", "accuracy", "right classes"),
    _classes("class_balanced", "class.bal", "balanced_accuracy", "mean class recall (ACSA)"),
    _classes("macro_f1", "macroF1", "macro_f1", "mean F1 of the classes"),
    _classes(
        "geometric_mean", "G-mean", "geometric_mean", "geometric mean of class recalls"
    ),
    Column("ms", "ms", "speed.ms_per_image_median", "per image, from file to prediction, median",
           digits=0, lower_is_better=True),
    Column("ms_p95", "ms.95", "speed.ms_per_image_p95", "95th percentile of ms", digits=0,
           lower_is_better=True),
    Column("images_per_second", "im/s", "speed.images_per_second", "images per second", digits=1),
    Column("fit", "fit", "speed.fit_seconds", "seconds, summed over folds", digits=0,
           lower_is_better=True),
    Column("memory", "MB", "speed.peak_memory_mb", "peak memory", digits=0, lower_is_better=True),
    Column("parameters", "par.M", "speed.parameters_millions", "parameters, in millions", digits=2,
           lower_is_better=True),
    Column("checkpoint", "ckpt.MB", "speed.checkpoint_mb", "checkpoint that predicts, MB",
           digits=1, lower_is_better=True),
)  # fmt: skip

KNOWN: Mapping[str, Column] = {column.name: column for column in _FIGURES}
TEXTS = ("labels", "weights", "published")
"""Columns that hold words (`published` a figure with its source)."""
COLUMNS = {
    name: tuple(KNOWN[name].path.split(".", 2))
    for name in ("auroc", "f1", "accuracy", "map50", "mask_iou", "pixel_auroc", "aupro")
}
"""The figures that are shown where nothing else is asked for."""
DEFAULT = (*COLUMNS, "labels", "weights", "fit", "ms")

_LOWER = ("loss", "seconds", "false_alarm", "ms_per_image", "memory", "parameters", "checkpoint")


def column(name: str) -> Column:
    """Return a known column, or the one of a dotted path."""
    if name in KNOWN:
        return KNOWN[name]
    known = next((one for one in _FIGURES if one.path == name), None)
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
        raise ConfigError("--columns: no names; see those in docs, or: --columns auroc,ap,ms")
    return names


def check_names(names: Iterable[str], trees: Sequence[Mapping[str, Any]], *, option: str) -> None:
    """Insist that each name is a known column, or a path that leads somewhere in one of the trees.

    Args:
        names: as the user typed them.
        trees: contents of `metrics.json`.
        option: what to blame.

    Raises:
        ConfigError: a name leads nowhere.
    """
    for name in names:
        if name in KNOWN or name in TEXTS or any(lookup(tree, name) is not None for tree in trees):
            continue
        paths = {path for tree in trees for path in _paths(tree)} if "." in name else set()
        hint = did_you_mean(name, [*KNOWN, *TEXTS, *sorted(paths)] if paths else [*KNOWN, *TEXTS])
        raise ConfigError(f"{option} {name}: no such column{hint}")


def expanded(names: Iterable[str], trees: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Put the figures below a path in its place, such as the recall of each class.

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
    """Return the figure at a dotted path.

    Raises:
        MetricError: what stands there is NaN or infinite.
    """
    found = lookup(metrics, path)
    if found is None:
        return NOT_GIVEN
    if isinstance(found, bool | list) or (isinstance(found, Mapping) and "reason" not in found):
        return Undefined("not a single number")
    if isinstance(found, str):
        # A damaged figure must not pass as one that was never there.
        if path in {column.path for column in _FIGURES}:
            raise MetricError(f"{path} is {found!r} and no number")
        return Undefined("not a number")
    return value_from_json(found)


def lookup(tree: Any, path: str) -> Any:
    """Return what stands at a dotted path, None where nothing does.

    Keys may hold dots themselves, as in `pixel.aupro.0.3`. Below a figure without a value stands
    its reason.
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


def mean_tree(trees: Sequence[Any]) -> Any:
    """Average trees of figures leaf by leaf; what is not in all of them, or no number, is left out.

    A figure that lacks a value in one tree lacks it in the mean.
    """
    first = trees[0]
    if all(isinstance(tree, Mapping) for tree in trees):
        if any("reason" in tree for tree in trees):
            return next(tree for tree in trees if "reason" in tree)
        shared = [key for key in first if all(key in tree for tree in trees)]
        means = {key: mean_tree([tree[key] for tree in trees]) for key in shared}
        return {key: mean for key, mean in means.items() if mean is not None}
    undefined = [tree for tree in trees if isinstance(tree, Mapping) and "reason" in tree]
    if undefined:
        return undefined[0]
    if all(isinstance(tree, int | float) and not isinstance(tree, bool) for tree in trees):
        return sum(trees) / len(trees)
    return None


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, below in tree.items():
        if isinstance(below, Mapping) and "reason" not in below:
            yield from _paths(below, f"{prefix}{key}.")
        elif isinstance(below, int | float | Mapping) and not isinstance(below, bool):
            yield f"{prefix}{key}"
