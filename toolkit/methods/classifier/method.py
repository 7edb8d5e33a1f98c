"""The image classifier as a method of the toolkit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit.methods.base import Labels, Method
from toolkit.methods.classifier.settings import ClassifierSettings, from_scratch

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.methods.base import Predictor
    from toolkit.runs.run import Run


class Classifier(Method[ClassifierSettings]):
    """A network of torchvision or timm with a linear head over `good` and the defect types.

    The anomaly score is the log-odds of a defect, log (1 − P(good)) − log P(good).
    """

    name: ClassVar[str] = "classifier"
    Settings: ClassVar[type] = ClassifierSettings
    labels: ClassVar[Labels] = "image"
    score_description: ClassVar[str] = "log-odds of any defect class"
    min_defects: ClassVar[int] = 2

    def fit(self, split: Split, run: Run) -> None:
        """Train on `split.train`, choose the epoch by `split.val`.

        Raises:
            DataError: a class has fewer than two training images, or images are grayscale that must
                not be.
            WeightsError: the pretrained weights cannot be had, or belong to another network.
            ConfigError: unknown network, more neighbors than images, or the loss became infinite.
        """
        import torch

        from toolkit.data.dataset_cards import symmetry_of
        from toolkit.methods.classifier.checkpoint import LAST, ModelInfo
        from toolkit.methods.classifier.data import load_images, load_training_images
        from toolkit.methods.classifier.network import build_network
        from toolkit.methods.classifier.train import train
        from toolkit.methods.size import note_parameters

        settings = self.settings
        classes = _checked_classes(split, settings, run)
        # An interrupted training continues with its own weights, whatever can be fetched now.
        resumes = (run.weights / LAST).is_file()
        torch.manual_seed(run.seed)
        model, weights = build_network(
            settings.network,
            len(classes),
            pooled_layers=run.metadata.get("pooled_layers", settings.pooled_layers),
            weights="none" if resumes else settings.weights,
        )
        pooled_layers = tuple(getattr(model.backbone, "layers", ()))
        note_parameters(run, model)
        if not resumes:
            run.update_metadata(
                weights=weights.name,
                weights_source=weights.source,
                pooled_layers=list(pooled_layers),
            )
            run.log(f"{settings.network}, weights: {weights.name} ({weights.source})")
            if weights.reason:
                run.log(weights.reason)
        if run.metadata["weights"] == "none":
            settings = from_scratch(settings)
            run.log("all layers are trained, because none has pretrained weights")
        state = train(
            model,
            ModelInfo(
                settings.network, classes, settings.image_size, pooled_layers,
                settings.tta,
            ),
            train_images=load_training_images(split, classes, settings, run),
            val_images=load_images(split, split.val, classes, settings.image_size),
            settings=settings,
            run=run,
            symmetry=symmetry_of(split.dataset.name),
        )  # fmt: skip
        run.update_metadata(
            best_epoch=state.best_epoch,
            epochs_done=state.epochs_done,
            head_epochs=settings.head_epochs,
        )

    def load(self, run: Run) -> Predictor:
        """Return the run's classifier, ready to predict.

        Raises:
            WeightsError: its weights are missing, damaged or of another network.
        """
        from toolkit.methods.classifier.checkpoint import load_best
        from toolkit.methods.classifier.predictor import ClassifierPredictor

        model, info = load_best(run.weights)
        return ClassifierPredictor(model.to(run.device), info)

    def report(self, split: Split, run: Run) -> Mapping[str, Any]:
        """Draw the run's plots; return the figures of the chosen epoch and the training's speed."""
        from toolkit.methods.classifier.report import write_report

        return write_report(split, run)


def _checked_classes(split: Split, settings: ClassifierSettings, run: Run) -> tuple[str, ...]:
    """Return the class names, after every check that needs no training."""
    import torch

    from toolkit.imbalance.losses import class_counts
    from toolkit.imbalance.sampling import check_neighbors
    from toolkit.methods.classifier.data import check_channels, class_indices, class_names

    classes = class_names(split, binary=settings.classes == "binary")
    if settings.imbalance in ("smote", "deepsmote"):
        counts = class_counts(torch.tensor(class_indices(split.train, classes)), len(classes))
        check_neighbors(counts, classes, settings.smote_num_neighbors)
    samples = (*split.train, *split.val, *split.test)
    remark = check_channels(samples, grayscale=settings.grayscale)
    if remark:
        run.log(remark)
        print(remark, file=sys.stderr)
    return classes
