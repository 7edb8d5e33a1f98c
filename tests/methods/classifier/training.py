"""Small trainings of the classifier on coloured noise."""

from __future__ import annotations

from pathlib import Path

import torch

from toolkit.config import settings_dict
from toolkit.methods.classifier.checkpoint import ModelInfo
from toolkit.methods.classifier.data import ImageSet
from toolkit.methods.classifier.network import build_network
from toolkit.methods.classifier.settings import ClassifierSettings
from toolkit.methods.classifier.train import State, train
from toolkit.runs.run import Run

CLASSES = ("good", "red", "blue")
TINY = ClassifierSettings(
    network="mobilenetv3_small_050",  # small files, quick to write
    weights="none",
    image_size=16,
    head_epochs=2,
    finetune_epochs=2,
    lr=3e-4,
    batch=6,
    samples_per_epoch=0,
    imbalance="none",
    train_layers="last-block",
    monitor="last",
)


def new_run(root: Path, settings: ClassifierSettings, name: str = "run") -> Run:
    return Run.create(
        root,
        method="classifier",
        settings=settings_dict(settings),
        split={},
        data={},
        seed=3,
        name=name,
    )


def colored(count: int, seed: int) -> ImageSet:
    """Noise images: gray for good, reddish and bluish for the defects."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    images = torch.randint(60, 120, (count, 3, 16, 16), generator=generator)
    images[labels == 1, 0] += 100
    images[labels == 2, 2] += 100
    return ImageSet(images.to(torch.uint8), labels, ("",) * count)


def train_colored(run: Run, settings: ClassifierSettings) -> State:
    torch.manual_seed(0)
    return train(
        build_network(settings.network, len(CLASSES))[0],
        ModelInfo(settings.network, CLASSES, 16, tta=settings.tta),
        train_images=colored(18, 0),
        val_images=colored(9, 1),
        settings=settings,
        run=run,
    )
