"""The image classifier behind the method interface."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit.data.images import read_rgb
from toolkit.methods.base import Labels, Method
from toolkit.methods.resnet.settings import ResNetSettings, from_scratch
from toolkit.methods.size import note_parameters
from toolkit.prediction import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.data.splits import Split
    from toolkit.data.types import Sample
    from toolkit.methods.base import Exported
    from toolkit.methods.resnet.checkpoint import ModelCard
    from toolkit.methods.resnet.frozen import Part
    from toolkit.methods.resnet.network import Classifier
    from toolkit.runs.run import Run


class ResNet(Method[ResNetSettings]):
    """A pretrained (or random) backbone with a linear head over `good` and the defect types.

    The anomaly score is the log-odds of a defect, log (1 − P(good)) − log P(good).
    """

    name: ClassVar[str] = "resnet"
    Settings: ClassVar[type] = ResNetSettings
    labels: ClassVar[Labels] = "image"
    score_description: ClassVar[str] = "log-odds of any defect class"
    min_defects: ClassVar[int] = 2

    def fit(self, split: Split, run: Run) -> None:
        """Train on `split.train`, choose the epoch by `split.val`.

        Raises:
            DataError: a class has fewer than two training images, or images are grey that must not.
            WeightsError: weights that were asked for by name cannot be had.
            ConfigError: unknown network, more neighbours than images, or the loss became infinite.
        """
        import torch

        from toolkit.methods.resnet import checkpoint
        from toolkit.methods.resnet.network import build_classifier
        from toolkit.methods.resnet.pretrained import load_pretrained
        from toolkit.methods.resnet.train import train

        settings = self.settings
        classes = _checked_classes(split, settings, run)
        torch.manual_seed(run.seed)
        model = build_classifier(
            settings.network, len(classes), pooled_layers=settings.pooled_layers
        )
        note_parameters(run, model)
        if not (run.weights / checkpoint.LAST).is_file():
            # An interrupted training goes on from its own weights, whatever can be reached now.
            origin = load_pretrained(model, network=settings.network, weights=settings.weights)
            run.update_metadata(weights=origin.weights, weights_source=origin.source)
            run.log(f"{settings.network}, weights: {origin.weights} ({origin.source})")
            if origin.reason:
                run.log(origin.reason)
        if run.metadata["weights"] == "none":
            settings = from_scratch(settings)
            run.log("no layer is frozen, because none knows anything yet")
        card = checkpoint.ModelCard(
            settings.network, classes, settings.image_size, settings.pooled_layers, settings.views
        )
        checkpoint.write_card(run.weights, card)
        state = train(
            model,
            train_part=_training_part(split, classes, settings, run),
            val_part=_part(split, split.val, classes, settings.image_size),
            classes=classes,
            settings=settings,
            run=run,
        )
        run.update_metadata(
            best_epoch=state.best_epoch,
            epochs_done=state.epochs_done,
            head_epochs=settings.head_epochs,
        )
        self._plot(run, classes)

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Classify one image at a time, from `run.weights` alone.

        Raises:
            RunError: the run holds no trained classifier.
        """
        from toolkit.methods.resnet.checkpoint import load_best

        model, card = load_best(run.weights)
        return _predictions(model.to(run.device), card, samples, run.device)

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Return the chosen epoch's figures, those of the classes in test, and speed.

        Draws the confusion matrix of the test part, and what misled the network in each test image
        that it got wrong.
        """
        from toolkit.methods.resnet.report import draw_test, report_of

        draw_test(split, run)
        return report_of(run)

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write `model.onnx` and `model.json`.

        Raises:
            MissingExtraError: ONNX is not installed.
        """
        from toolkit.methods.resnet.checkpoint import load_best
        from toolkit.methods.resnet.export import export_onnx

        return export_onnx(*load_best(run.weights), out, samples)

    def _plot(self, run: Run, classes: tuple[str, ...]) -> None:
        from toolkit.methods.resnet.checkpoint import BEST, read_checkpoint
        from toolkit.methods.resnet.plots import plot_confusion, plot_curves

        _, facts = read_checkpoint(run.weights / BEST)
        plot_curves(run.results(), run.plots / "curves.png", best_epoch=facts["epoch"])
        plot_confusion(
            facts["confusion"],
            classes,
            run.plots / "confusion_val.png",
            title=f"validation, epoch {facts['epoch']}",
        )


def _checked_classes(split: Split, settings: ResNetSettings, run: Run) -> tuple[str, ...]:
    """Return the class names, after every check that needs no training."""
    import torch

    from toolkit.imbalance.smote import check_neighbours
    from toolkit.imbalance.weights import class_counts
    from toolkit.methods.resnet.image_cache import check_channels
    from toolkit.methods.resnet.labels import class_indices, class_names

    classes = class_names(split, binary=settings.classes == "binary")
    if settings.balance in ("smote", "deepsmote"):
        labels = torch.tensor(class_indices(split.train, classes))
        check_neighbours(class_counts(labels, len(classes)), classes, settings.smote_neighbours)
    remark = check_channels((*split.train, *split.val, *split.test), grey=settings.grey)
    if remark:
        run.log(remark)
        print(remark, file=sys.stderr)
    return classes


def _part(split: Split, samples: Sequence[Sample], classes: tuple[str, ...], size: int) -> Part:
    import torch

    from toolkit.methods.resnet.frozen import Part
    from toolkit.methods.resnet.image_cache import load_resized
    from toolkit.methods.resnet.labels import class_indices

    return Part(
        load_resized(samples, split.dataset, size=size),
        torch.tensor(class_indices(samples, classes)),
        tuple(split.dataset.content[sample.id] for sample in samples),
    )


def _training_part(
    split: Split, classes: tuple[str, ...], settings: ResNetSettings, run: Run
) -> Part:
    from toolkit.methods.resnet.image_cache import load_resized
    from toolkit.methods.resnet.synthetic import with_synthetic

    samples = (*split.train, *split.val) if settings.choose == "none" else split.train
    part = _part(split, samples, classes, settings.image_size)
    if settings.balance != "deepsmote":
        return part
    size = settings.deepsmote_size
    return with_synthetic(
        part,
        lambda: load_resized(samples, split.dataset, size=size),
        classes=classes,
        settings=settings,
        run=run,
    )


def _predictions(
    model: Classifier, card: ModelCard, samples: Sequence[Sample], device: str
) -> Iterator[Prediction]:
    import torch

    from toolkit.methods.resnet.evaluate import anomaly_scores
    from toolkit.methods.resnet.frozen import averaged_logits
    from toolkit.methods.resnet.image_cache import resized

    for sample in samples:
        image = torch.from_numpy(resized(read_rgb(sample.image), card.image_size))
        with torch.no_grad():
            logits = averaged_logits(model, image.permute(2, 0, 1)[None], card.views, device)
            logits = logits.double().cpu()
        probabilities = logits.softmax(1)[0].tolist()
        yield Prediction(
            sample_id=sample.id,
            score=float(anomaly_scores(logits)[0]),
            class_probabilities=dict(zip(card.classes, probabilities, strict=True)),
        )
