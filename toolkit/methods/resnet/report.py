"""What a run of the classifier tells beside its predictions: figures, and pictures of errors."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from toolkit.data.images import read_rgb, read_truth
from toolkit.methods.resnet.checkpoint import BEST, load_best, read_checkpoint
from toolkit.methods.resnet.labels import class_indices
from toolkit.metrics.classification import classification_metrics
from toolkit.prediction import Prediction
from toolkit.runs.prediction_io import read_predictions

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.runs.run import Run

WRONG = "wrong"


def report_of(run: Run) -> dict[str, Any]:
    """Return figures of the chosen epoch, and the median seconds per epoch.

    Training loss and accuracy are means over the epoch while it went, with the remedy's loss;
    those of validation are taken after it, with plain cross-entropy.
    """
    _, facts = read_checkpoint(run.weights / BEST)
    rows = run.results()
    chosen = next(row for row in rows if int(row["epoch"]) == facts["epoch"])
    seconds = [float(row["seconds"]) for row in rows]
    # Epochs on features that are computed once are no measure of the others.
    full = seconds[run.metadata["head_epochs"] :]
    return {
        "validation": facts,
        "train_loss": float(chosen["train_loss"]),
        "train_accuracy": float(chosen["train_accuracy"]),
        "val_loss": float(chosen["val_loss"]),
        "val_accuracy": float(chosen["val_accuracy"]),
        "epochs": len(rows),
        "seconds_per_epoch": median(full or seconds),
    }


def draw_test(split: Split, run: Run) -> None:
    """Draw `plots/confusion_test.png`, and `plots/wrong/` with one picture per wrong answer.

    Each shows the image, and what spoke for the class that was said (Grad-CAM) with the outline of
    the true defect.
    """
    import numpy as np
    import torch

    from toolkit.inference.plot import overlay
    from toolkit.methods.resnet.gradcam import grad_cam
    from toolkit.methods.resnet.image_cache import resized
    from toolkit.methods.resnet.plots import draw_wrong, plot_confusion

    model, card = load_best(run.weights)
    model.to(run.device)
    by_id = {p.sample_id: p for p in read_predictions(run.predictions, "test", pixels=False)}
    samples = [s for s in split.test if s.id in by_id]
    truth = class_indices(samples, card.classes)
    said = []
    for sample in samples:
        shares = by_id[sample.id].class_probabilities or {}
        said.append(int(np.argmax([shares[name] for name in card.classes])))
    if not samples:
        return
    found = classification_metrics(truth, said, class_names=card.classes)
    path = run.plots / "confusion_test.png"
    plot_confusion(found.confusion, card.classes, path, title=f"test, {len(samples)} images")
    for sample, true, label in zip(samples, truth, said, strict=True):
        if true == label:
            continue
        image = read_rgb(sample.image)
        small = torch.from_numpy(resized(image, card.image_size)).permute(2, 0, 1)[None]
        cam = grad_cam(model, small, label, run.device)
        shown = Prediction(sample_id=sample.id, score=by_id[sample.id].score, anomaly_map=cam)
        picture = overlay(image, shown, truth=read_truth(sample), heat_range=(0.0, 1.0))
        share = (by_id[sample.id].class_probabilities or {})[card.classes[label]]
        draw_wrong(
            image,
            picture,
            run.plots / WRONG / f"{sample.id.replace('/', '-').rsplit('.', 1)[0]}.png",
            title=f"{sample.id}: is {card.classes[true]}, said {card.classes[label]} ({share:.2f})",
        )
