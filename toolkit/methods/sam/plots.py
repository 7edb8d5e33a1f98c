"""Plots of a fine-tuning: its curves, and its effect on single regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.files import atomic_write
from toolkit.methods.sam.evaluate import Evaluated, predict_kinds, true_mask
from toolkit.methods.sam.targets import Embeddings, Target
from toolkit.metrics.masks import mask_iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRUTH, _PREDICTION = (0, 220, 0), (255, 60, 60)
_COLUMNS = ("before", "after", "truth")
_SIDE = 420


def plot_training(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw loss and IoU over the epochs from the rows of `results.csv`; nothing without rows."""
    if not rows:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _line(left, rows, "train_loss", "training")
    left.set_ylabel("loss")
    _line(right, rows, "train_iou", "training, first prompt")
    _line(right, rows, "val_box_iou", "validation, box")
    _line(right, rows, "val_click_iou", "validation, one click")
    right.set_ylabel("IoU")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("epoch (0: untrained)")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def save_gallery(
    before: Evaluated,
    after: Evaluated,
    cache: Embeddings,
    targets: Sequence[Target],
    ious: Sequence[float],
    *,
    kind: str,
    path: Path,
) -> None:
    """Draw before, after and truth for the best, the median and the worst region.

    Args:
        before: the model before training.
        after: the fine-tuned model.
        cache: embeddings of the targets' images.
        targets: regions of test images; nothing is drawn without any.
        ious: the fine-tuned model's IoU of each.
        kind: of prompt, see `evaluate.KINDS`.
        path: PNG file to write.
    """
    if not targets:
        return
    from matplotlib.figure import Figure

    order = np.argsort(ious, kind="stable")
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    figure = Figure(figsize=(9, 9.6), layout="constrained")
    grid = figure.subplots(3, 3)
    for line, (name, index) in zip(grid, chosen.items(), strict=True):
        target = targets[int(index)]
        truth = true_mask(target)
        masks = [predict_kinds(m, cache, target, [kind])[kind][0] for m in (before, after)]
        image = read_rgb(target.sample.image)
        for axes, column, mask in zip(line, _COLUMNS, [*masks, truth], strict=True):
            colour = _TRUTH if column == "truth" else _PREDICTION
            axes.imshow(_outlined(image, mask, colour))
            axes.set_axis_off()
            iou = "" if column == "truth" else f" {mask_iou(mask, truth):.2f}"
            axes.set_title(f"{name}, {column}{iou}", fontsize=9)
        line[-1].set_title(f"{name}: {target.sample.id}", fontsize=9)
    figure.suptitle(f"prompt: {kind}; IoU at the image's resolution")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _line(axes: object, rows: Sequence[Mapping[str, str]], name: str, label: str) -> None:
    points = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", label=label)  # type: ignore[attr-defined]


def _outlined(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    import cv2

    canvas = image.copy()
    canvas[mask] = (canvas[mask] * 0.65 + np.array(colour) * 0.35).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, max(1, round(max(image.shape) / 250)))
    scale = _SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small: NDArray[np.uint8] = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    return small
