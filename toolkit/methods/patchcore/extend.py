"""Going on with the bank of an earlier run: new good images without starting over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import RunError, WeightsError
from toolkit.files import read_json
from toolkit.methods.patchcore.bank import MemoryBank
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.data.splits import Split
    from toolkit.methods.features.extractor import FeatureExtractor

IMAGES = "images.json"
"""Contents (SHA-256) of the images that a bank was made of, beside the bank."""


@dataclass(frozen=True)
class Extended:
    """The bank that is gone on with.

    Attributes:
        features: its patches before whitening, float32 (m, d).
        whitening: float32 (d, d).
        seen: patches that its images had.
        thinned: whether it is a coreset, or a sample, of them.
        images: contents of its images.
    """

    features: Tensor
    whitening: Tensor
    seen: int
    thinned: bool
    images: tuple[str, ...]


def learnt_images(place: str) -> frozenset[str]:
    """Return the contents of the images that a run learnt from; empty where it does not say.

    Raises:
        RunError: no run there.
    """
    path = Run.open(Path(place)).weights / IMAGES
    return frozenset(read_json(path)) if path.is_file() else frozenset()


def read_extended(place: str, extractor: FeatureExtractor, split: Split) -> Extended:
    """Read the bank of a run, as if its images had just been embedded.

    Raises:
        RunError: no run there, not one of PatchCore, or it learnt from an image that this split
            validates or tests with.
        WeightsError: the bank is missing, damaged, or was made by another extractor.
    """
    import torch

    run = Run.open(Path(place))
    path = run.weights / IMAGES
    bank = MemoryBank.load(run.weights)
    if not path.is_file():
        raise WeightsError(f"{path}: missing, so its images are not known; train patchcore again")
    bank.meta.check_made_by(extractor, run.weights)
    images = tuple(read_json(path))
    held_out = {split.dataset.content[s.id]: s.id for s in (*split.val, *split.test)}
    leaked = sorted(held_out[c] for c in images if c in held_out)
    if leaked:
        raise RunError(
            f"{run.path}: learnt from {leaked[0]}, which is held out here; extend a run of the "
            "same split"
        )
    return Extended(
        features=torch.linalg.solve(bank.whitening.T.double(), bank.features.T.double()).T.float(),
        whitening=bank.whitening,
        seen=bank.meta.seen,
        thinned=len(bank) < bank.meta.seen,
        images=images,
    )
