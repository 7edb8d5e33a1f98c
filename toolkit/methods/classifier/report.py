"""Figures and plots of a run: curves, confusion matrices, Grad-CAM of wrong predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data.images import read_rgb, read_truth
from toolkit.files import atomic_write
from toolkit.inference.plot import overlay, save_picture
from toolkit.methods.classifier.checkpoint import BEST, load_best, read_best
from toolkit.methods.classifier.data import class_indices
from toolkit.methods.classifier.predictor import to_pixels
from toolkit.metrics.classification import classification_metrics
from toolkit.prediction import Prediction
from toolkit.runs.prediction_io import read_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.splits import Split
    from toolkit.methods.classifier.network import ClassificationNetwork
    from toolkit.runs.run import Run

_SIDE, _TITLE_HEIGHT, _LONGEST_TITLE = 440, 30, 95
_TRAIN_COLOR, _VAL_COLOR = "#1f6fb4", "#d1622b"


def write_report(split: Split, run: Run) -> dict[str, Any]:
    """Draw the plots of a run and return the figures of its chosen epoch.

    Training loss and accuracy are means over the epoch, with the loss of the remedy; those of
    validation are taken after it, with plain cross-entropy. Plots: `curves.png`,
    `confusion_val.png`, `confusion_test.png`, and `wrong/` with one picture per wrong prediction.
    """
    rows = run.results()
    _, info = read_best(run.weights / BEST)
    epoch = info.validation["epoch"]
    plot_curves(rows, run.plots / "curves.png", best_epoch=epoch)
    plot_confusion(
        info.validation["confusion"],
        info.classes,
        run.plots / "confusion_val.png",
        title=f"validation, epoch {epoch}",
    )
    _draw_test(split, run)
    chosen = next(row for row in rows if int(row["epoch"]) == epoch)
    seconds = [float(row["seconds"]) for row in rows]
    # Head epochs on features that are computed once cost far less than the others.
    figures = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return {
        "validation": dict(info.validation),
        **{name: float(chosen[name]) for name in figures},
        "epochs": len(rows),
        "seconds_per_epoch": median(seconds[run.metadata["head_epochs"] :] or seconds),
    }


def _draw_test(split: Split, run: Run) -> None:
    """Draw the confusion matrix of the test part, and each wrong prediction.

    A wrong one shows the image beside its Grad-CAM for the predicted class, with the outline of the
    true defect.
    """
    model, info = load_best(run.weights)
    model.to(run.device)
    by_id = {p.sample_id: p for p in read_predictions(run.predictions, "test", pixels=False)}
    samples = [s for s in split.test if s.id in by_id]
    if not samples:
        return
    truth = class_indices(samples, info.classes)
    shares = [by_id[s.id].class_probabilities or {} for s in samples]
    predicted = [int(np.argmax([one[name] for name in info.classes])) for one in shares]
    found = classification_metrics(truth, predicted, class_names=info.classes)
    path = run.plots / "confusion_test.png"
    plot_confusion(found.confusion, info.classes, path, title=f"test, {len(samples)} images")
    for sample, true, label, share in zip(samples, truth, predicted, shares, strict=True):
        if true == label:
            continue
        image = read_rgb(sample.image)
        cam = grad_cam(model, to_pixels(image, info.image_size), label)
        heat = Prediction(by_id[sample.id].score, anomaly_map=cam, sample_id=sample.id)
        picture = overlay(image, heat, truth=read_truth(sample), heat_range=(0.0, 1.0))
        name = info.classes[label]
        title = f"{sample.id}: {info.classes[true]}, predicted {name} ({share[name]:.2f})"
        file = f"{sample.id.replace('/', '-').rsplit('.', 1)[0]}.png"
        draw_pair(image, picture, run.plots / "wrong" / file, title=title)


def plot_curves(rows: Sequence[Mapping[str, str]], path: Path, *, best_epoch: int) -> None:
    """Draw loss and accuracy over the epochs; those of validation where there was one.

    Args:
        rows: of `results.csv`.
        path: PNG file to write.
        best_epoch: is marked.
    """
    figure, (left, right) = _figure(1, 2, size=(10, 3.8))
    for axes, column, color, label, line in (
        (left, "train_loss", _TRAIN_COLOR, "training", "-"),
        (left, "val_loss", _VAL_COLOR, "validation", "-"),
        (right, "train_accuracy", _TRAIN_COLOR, "training", "-"),
        (right, "val_accuracy", _VAL_COLOR, "validation", "-"),
        (right, "val_balanced_accuracy", _VAL_COLOR, "balanced", ":"),
    ):
        # Not every epoch needs to have been validated.
        points = [(int(row["epoch"]), float(row[column])) for row in rows if row[column]]
        axes.plot(*zip(*points, strict=True), color=color, label=label, linestyle=line)
    left.set_ylabel("cross-entropy")
    left.set_ylim(bottom=0)
    right.set_ylabel("accuracy")
    right.set_ylim(0, 1.02)
    for axes in (left, right):
        axes.axvline(best_epoch, color="0.6", linewidth=0.8, label=f"chosen: {best_epoch}")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    _save(figure, path)


def plot_confusion(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw a confusion matrix (rows are true classes) with counts, shaded by the row's share."""
    figure, axes = _figure(1, 1, size=(1.6 + 0.85 * len(classes), 1.2 + 0.75 * len(classes)))
    shares = [[count / max(sum(row), 1) for count in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(confusion):
        for j, count in enumerate(row):
            color = "w" if shares[i][j] > 0.5 else "k"
            axes.text(j, i, str(count), ha="center", va="center", color=color)
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def draw_pair(
    image: NDArray[np.uint8], other: NDArray[np.uint8], path: Path, *, title: str
) -> None:
    """Draw two images side by side, both uint8 (H, W, 3), under a title."""
    import cv2

    size = (_SIDE, round(_SIDE * image.shape[0] / image.shape[1]))
    pair = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (image, other)]
    band = np.full((_TITLE_HEIGHT, 2 * _SIDE, 3), 255, np.uint8)
    scale = min(0.5, 0.5 * _LONGEST_TITLE / len(title))
    font, dark = cv2.FONT_HERSHEY_SIMPLEX, (20, 20, 20)
    cv2.putText(band, title, (8, 20), font, scale, dark, 1, cv2.LINE_AA)
    # Not through matplotlib, which takes half a second for each.
    save_picture(np.concatenate([band, np.concatenate(pair, axis=1)]), path)


def _figure(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Any, Any]:
    # Without pyplot, which needs a display and keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def last_map(model: ClassificationNetwork, images: Tensor) -> nn.Module:
    """Return the module whose output is the last map (B, C, h, w) with more than one place.

    Args:
        model: the classifier.
        images: float32 (1, 3, S, S), normalized.
    """
    found: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            found.append(module)

    # Only modules without children: a container's output is that of its last child.
    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1]


def grad_cam(model: ClassificationNetwork, image: Tensor, label: int) -> NDArray[np.float32]:
    """Return how much each place of the last map speaks for a class.

    Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2: maps weighted by the mean gradient of
    the class's logit, summed, and cut off below 0.

    Args:
        model: in evaluation mode.
        image: float32 (1, 3, S, S) in [0, 1].
        label: index of the class.

    Returns:
        float32 (h, w), from 0 to 1; all 0 where nothing speaks for the class.
    """
    inputs = model.normalize(image).requires_grad_()
    module = last_map(model, inputs.detach())
    kept: list[Tensor] = []
    hook = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    try:
        logit = model(inputs)[0, label]
    finally:
        hook.remove()
    maps = kept[-1]
    (gradient,) = torch.autograd.grad(logit, maps)
    cam = (gradient.mean((2, 3), keepdim=True) * maps).sum(1)[0].clamp_min(0).detach()
    scaled: NDArray[np.float32] = (cam / cam.max().clamp_min(1e-12)).float().cpu().numpy()
    return scaled
