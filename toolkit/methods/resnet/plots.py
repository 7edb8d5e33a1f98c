"""Pictures of a training: learning curves, confusion matrices, and what misled it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.files import atomic_write
from toolkit.inference.plot import save_picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIDE, _BAND, _LONGEST_TITLE = 440, 30, 95
_TRAIN, _VAL = "#1f6fb4", "#d1622b"


def plot_curves(rows: Sequence[Mapping[str, str]], path: Path, *, best_epoch: int) -> None:
    """Draw loss and accuracy over the epochs; those of validation where there was one.

    Args:
        rows: of `results.csv`.
        path: PNG file to write.
        best_epoch: is marked.
    """
    epochs = [int(row["epoch"]) for row in rows]

    def column(name: str) -> list[float]:
        return [float(row[name]) for row in rows]

    # Not every epoch needs to have been validated.
    validated = [row for row in rows if row["val_loss"]]
    val_epochs = [int(row["epoch"]) for row in validated]

    def val_column(name: str) -> list[float]:
        return [float(row[name]) for row in validated]

    figure, (left, right) = _figure(1, 2, size=(10, 3.8))
    left.plot(epochs, column("train_loss"), color=_TRAIN, label="training")
    left.plot(val_epochs, val_column("val_loss"), color=_VAL, label="validation")
    left.set_ylabel("cross-entropy")
    left.set_ylim(bottom=0)
    right.plot(epochs, column("train_accuracy"), color=_TRAIN, label="training")
    right.plot(val_epochs, val_column("val_accuracy"), color=_VAL, label="validation")
    right.plot(
        val_epochs, val_column("val_balanced_accuracy"), color=_VAL, linestyle=":", label="balanced"
    )
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
            dark = shares[i][j] > 0.5
            axes.text(j, i, str(count), ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def draw_wrong(
    image: NDArray[np.uint8], overlay: NDArray[np.uint8], path: Path, *, title: str
) -> None:
    """Draw an image beside its overlay, both uint8 (H, W, 3), under a line that says what it is."""
    import cv2
    import numpy as np

    height = round(_SIDE * image.shape[0] / image.shape[1])
    pair = [
        cv2.resize(one, (_SIDE, height), interpolation=cv2.INTER_AREA) for one in (image, overlay)
    ]
    band = np.full((_BAND, 2 * _SIDE, 3), 255, np.uint8)
    scale = min(0.5, 0.5 * _LONGEST_TITLE / len(title))
    place, dark = (8, 20), (20, 20, 20)
    cv2.putText(band, title, place, cv2.FONT_HERSHEY_SIMPLEX, scale, dark, 1, cv2.LINE_AA)
    # Not through matplotlib, which takes half a second for each.
    save_picture(np.concatenate([band, np.concatenate(pair, axis=1)]), path)


def _figure(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Any, Any]:
    # A figure of its own, without pyplot: no display is asked for and nothing global is changed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
