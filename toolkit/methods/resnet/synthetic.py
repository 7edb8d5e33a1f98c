"""DeepSMOTE inside a training: new images of rare classes, from the training part alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from toolkit.files import atomic_folder
from toolkit.imbalance.deepsmote import DeepSmote, missing_images, synthesise, train_deepsmote
from toolkit.imbalance.image_folder import (
    CONTACT_SHEET,
    read_class_images,
    write_class_images,
    write_contact_sheet,
)
from toolkit.methods.resnet.frozen import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolkit.methods.resnet.settings import ResNetSettings
    from toolkit.runs.run import Run

FOLDER = "synthetic"


def with_synthetic(
    part: Part,
    small: Callable[[], torch.Tensor],
    *,
    classes: tuple[str, ...],
    settings: ResNetSettings,
    run: Run,
) -> Part:
    """Fill every class up to the largest with images that DeepSMOTE makes.

    They are kept in `synthetic/` of the run, with a contact sheet, and read from there when the
    run goes on after an interruption. They are made at `deepsmote_size` and enlarged.

    Args:
        part: the training part.
        small: gives its images at `deepsmote_size`, uint8 (n, 3, s, s).
        classes: class names.
        settings: of the method.
        run: where they are kept.
    """
    missing = missing_images(part.labels, len(classes))
    if not missing:
        return part
    folder = run.path / FOLDER
    if not folder.is_dir():
        _make(small(), part.labels, missing, classes, settings, run)
    images, labels = read_class_images(folder, classes)
    size = part.images.shape[-1]
    if images.shape[-1] != size:
        grown = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
        images = grown.round().clamp(0, 255).to(torch.uint8)
    keys = tuple(hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in images)
    return Part(
        torch.cat([part.images, images]),
        torch.cat([part.labels, labels]),
        part.keys + keys if part.keys else (),
    )


def _make(
    images: torch.Tensor,
    labels: torch.Tensor,
    missing: dict[int, int],
    classes: tuple[str, ...],
    settings: ResNetSettings,
    run: Run,
) -> None:
    how = DeepSmote(
        epochs=settings.deepsmote_epochs,
        penalty=settings.deepsmote_penalty,
        neighbours=settings.smote_neighbours,
    )
    trained = train_deepsmote(images, labels, how, seed=run.seed, device=run.device)
    made = synthesise(trained, images, labels, missing, neighbours=how.neighbours, seed=run.seed)
    with atomic_folder(run.path / FOLDER) as fresh:
        write_class_images(fresh, *made, classes)
        write_contact_sheet(fresh / CONTACT_SHEET, (images, labels), made, classes)
    reconstruction, penalty = trained.losses[-1]
    run.log(
        f"DeepSMOTE made {len(made[1])} images: reconstruction {reconstruction:.4f}, "
        f"penalty {penalty:.4f} ({how.penalty})"
    )
