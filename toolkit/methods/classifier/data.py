"""Images of a training: class indices, checks, resizing, cached features, synthetic images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.array_cache import ArrayCache
from toolkit.data.images import image_size, read_rgb
from toolkit.data.types import GOOD
from toolkit.errors import DataError
from toolkit.files import atomic_folder
from toolkit.imbalance.deepsmote import DeepSmote, missing_images, synthesize, train_deepsmote
from toolkit.imbalance.image_folder import (
    CONTACT_SHEET,
    read_class_images,
    write_class_images,
    write_contact_sheet,
)
from toolkit.progress import progress, track
from toolkit.runtime.steps import resize_square
from toolkit.weights.checkpoint import tensors_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from toolkit.d4 import D4
    from toolkit.data.splits import Split
    from toolkit.data.types import Dataset, Sample
    from toolkit.methods.classifier.network import ClassificationNetwork
    from toolkit.methods.classifier.settings import ClassifierSettings
    from toolkit.runs.run import Run

DEFECT = "defect"
SYNTHETIC = "synthetic"
_RESIZE = "by halves, then bilinear"  # in the key of what is cached of resized images
_GRAYSCALE_CHANNELS = 2  # gray, or gray and alpha


@dataclass(frozen=True)
class ImageSet:
    """Images of one part of the split.

    Attributes:
        images: uint8 (n, 3, S, S), RGB.
        labels: int64 (n,), class indices.
        keys: key of each image in the cache, its SHA-256; empty for images that are not cached.
    """

    images: Tensor
    labels: Tensor
    keys: tuple[str, ...]


def class_names(split: Split, *, binary: bool) -> tuple[str, ...]:
    """Return the classes to learn, `good` first.

    Args:
        split: its training part must hold every class at least twice.
        binary: `good` and `defect` instead of `good` and the defect types.

    Raises:
        DataError: a class has no training image, or only one; or there is no validation image.
    """
    root, fold = split.dataset.root, split.fold
    counts = Counter(_class_of(s, binary=binary) for s in split.train)
    if not counts.keys() - {GOOD}:
        raise DataError(
            f"{root}: protocol {split.protocol} trains on no defect image, and a classifier needs "
            "some; use the protocol supervised or balanced"
        )
    for name in sorted({GOOD, *(_class_of(s, binary=binary) for s in split.dataset)}):
        if counts[name] < 2:
            found = "only one training image" if counts[name] else "no training image"
            raise DataError(
                f"{root}: class {name} has {found} in fold {fold}; add images, use fewer folds, or "
                "leave its folder out"
            )
    if not split.val:
        raise DataError(f"{root}: no validation image in fold {fold}; split it again")
    return (GOOD, *sorted(counts.keys() - {GOOD}))


def class_indices(samples: Iterable[Sample], classes: tuple[str, ...]) -> list[int]:
    """Return the index of each labeled sample's class."""
    binary = classes == (GOOD, DEFECT)
    return [classes.index(_class_of(sample, binary=binary)) for sample in samples]


def _class_of(sample: Sample, *, binary: bool) -> str:
    return DEFECT if binary and sample.is_defect else sample.label


def check_channels(samples: Sequence[Sample], *, grayscale: str) -> str:
    """Check, by their headers, that all images are grayscale or all are in color.

    Networks take three channels, so one channel is repeated for them; but where only some images
    are grayscale, that alone could separate the classes.

    Args:
        samples: all images of the split.
        grayscale: `repeat` or `refuse`.

    Returns:
        A line that says how grayscale images are treated; empty where all are in color.

    Raises:
        DataError: some images are grayscale and some are not, or grayscale ones are refused.
    """
    found = [s for s in samples if image_size(s.image)[2] <= _GRAYSCALE_CHANNELS]
    if not found:
        return ""
    first = found[0].image
    if len(found) < len(samples):
        raise DataError(
            f"{first}: grayscale, but {len(samples) - len(found)} of {len(samples)} images are in "
            "color; convert all to one kind"
        )
    if grayscale == "refuse":
        raise DataError(
            f"{first}: grayscale, but the network takes RGB; convert the images, or "
            "--grayscale repeat"
        )
    return f"{len(found)} grayscale images (such as {first}): their channel is repeated for RGB"


def load_resized(samples: Sequence[Sample], dataset: Dataset, *, size: int) -> Tensor:
    """Return all images, resized to a square; each is decoded once for all trainings.

    Args:
        samples: of the data set.
        dataset: knows the hash of each image file, which is the key.
        size: side in pixels.

    Returns:
        uint8 tensor (n, 3, size, size), RGB.

    Raises:
        DataError: an image that is not in the cache cannot be read.
        OutputError: the cache cannot be written.
    """
    recipe = {"resize": _RESIZE, "size": size}
    cache = ArrayCache("resized", recipe, shape=(size, size, 3), dtype=np.uint8)
    images = np.empty((len(samples), size, size, 3), np.uint8)
    for index, sample in enumerate(track(samples, f"reading at {size} px")):
        images[index] = cache.get_or_compute(
            dataset.content[sample.id],
            lambda path=sample.image: resize_square(read_rgb(path), size),  # type: ignore[misc]
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def load_images(
    split: Split, samples: Sequence[Sample], classes: tuple[str, ...], size: int
) -> ImageSet:
    """Load the images of some samples with their class indices."""
    return ImageSet(
        load_resized(samples, split.dataset, size=size),
        torch.tensor(class_indices(samples, classes)),
        tuple(split.dataset.content[sample.id] for sample in samples),
    )


def load_training_images(
    split: Split, classes: tuple[str, ...], settings: ClassifierSettings, run: Run
) -> ImageSet:
    """Load what is trained on, with the images that DeepSMOTE adds."""
    # Where validation chooses nothing, its images are trained on.
    samples = (*split.train, *split.val) if settings.monitor == "none" else split.train
    real = load_images(split, samples, classes, settings.image_size)
    missing = missing_images(real.labels, len(classes))
    if settings.imbalance != "deepsmote" or not missing:
        return real
    folder = run.path / SYNTHETIC
    if not folder.is_dir():  # else the run was interrupted after making them
        small = load_resized(samples, split.dataset, size=settings.deepsmote_size)
        _make_synthetic(small, real.labels, missing, classes, settings, run)
    images, labels = read_class_images(folder, classes)
    side = settings.image_size
    if images.shape[-1] != side:
        grown = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
        images = grown.round().clamp(0, 255).to(torch.uint8)
    return ImageSet(
        torch.cat([real.images, images]),
        torch.cat([real.labels, labels]),
        (*real.keys, *([""] * len(labels))),
    )


def _make_synthetic(
    images: Tensor,
    labels: Tensor,
    missing: dict[int, int],
    classes: tuple[str, ...],
    settings: ClassifierSettings,
    run: Run,
) -> None:
    """Write DeepSMOTE's images and a contact sheet into the run."""
    how = DeepSmote(
        epochs=settings.deepsmote_epochs,
        penalty=settings.deepsmote_penalty,
        num_neighbors=settings.smote_num_neighbors,
    )
    trained = train_deepsmote(images, labels, how, seed=run.seed, device=run.device)
    made = synthesize(trained, images, labels, missing, seed=run.seed)
    with atomic_folder(run.path / SYNTHETIC) as folder:
        write_class_images(folder, *made, classes)
        write_contact_sheet(folder / CONTACT_SHEET, (images, labels), made, classes)
    reconstruction, penalty = trained.losses[-1]
    run.log(
        f"DeepSMOTE made {len(made[1])} images: reconstruction {reconstruction:.4f}, "
        f"penalty {penalty:.4f} ({how.penalty})"
    )


def frozen_features(
    model: ClassificationNetwork,
    images: ImageSet,
    *,
    transforms: Sequence[D4],
    network: str = "",
    title: str,
) -> Tensor:
    """Compute the backbone's features of every transform of every image.

    Args:
        model: put into evaluation mode.
        images: the images.
        transforms: flips and quarter turns.
        network: its name, to keep the features in the cache; empty for a backbone that is of no
            use to other runs.
        title: of the progress bar.

    Returns:
        float32 (transforms, n, F), on the model's device.
    """
    model.eval()
    cache = _feature_cache(model, images, network) if network else None
    rows = []
    with torch.inference_mode(), progress(title, len(transforms) * len(images.keys)) as bar:
        for transform in transforms:
            for image, key in zip(images.images, images.keys, strict=True):

                def compute(image: Tensor = image, transform: D4 = transform) -> np.ndarray:
                    pixels = model.normalize(transform.apply_tensor(image[None]).float() / 255)
                    features: np.ndarray = model.backbone(pixels)[0].float().cpu().numpy()
                    return features

                name = f"{key}-{transform.turns}{'m' if transform.mirrored else ''}"
                rows.append(cache.get_or_compute(name, compute) if cache and key else compute())
                bar.advance()
    found = torch.from_numpy(np.stack(rows)).to(model.head.weight.device)
    return found.view(len(transforms), len(images.keys), -1)


def _feature_cache(model: ClassificationNetwork, images: ImageSet, network: str) -> ArrayCache:
    recipe = {
        "network": network,
        "tensors": tensors_sha256(model.backbone.state_dict()),
        "layers": list(getattr(model.backbone, "layers", ())),
        "resize": _RESIZE,
        "size": images.images.shape[-1],
    }
    shape = (model.head.in_features,)
    return ArrayCache("classifier-features", recipe, shape=shape, dtype=np.float32)
