"""Image embeddings on disk: computed once per image, view and model, shared by all runs.

<cache>/embeddings/<model hash>/<image sha256>-<view>.npy      float16, (256, 64, 64), 2 MiB
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample, file_sha256
from toolkit.files import written_whole
from toolkit.home import cache_dir
from toolkit.methods.sam.views import view_of_image
from toolkit.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_PREPROCESSING = "longest-side-1024"
_SHAPE = (256, 64, 64)


class Embeddings(Protocol):
    """Where the embeddings of images come from."""

    def get(self, sample: Sample, view: int = 0) -> Tensor:
        """Return the embedding of a view of an image, float (256, 64, 64)."""


@torch.no_grad()
def embed(sam: Sam, image: NDArray[np.uint8]) -> Tensor:
    """Run the image encoder on one RGB image (H, W, 3).

    Returns:
        float32 tensor (256, 64, 64) on the model's device.
    """
    return _encode(sam, image)


class LiveEmbeddings:
    """Embeddings computed anew each time, with their gradients: the encoder itself learns."""

    def __init__(self, sam: Sam) -> None:
        self._sam = sam

    def get(self, sample: Sample, view: int = 0) -> Tensor:
        """Return one embedding, float32 (256, 64, 64) on the model's device."""
        return _encode(self._sam, view_of_image(read_rgb(sample.image), view))


def _encode(sam: Sam, image: NDArray[np.uint8]) -> Tensor:
    from segment_anything.utils.transforms import ResizeLongestSide

    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    pixels = torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1).to(sam.device)
    embedding: Tensor = sam.image_encoder(sam.preprocess(pixels.float())[None])[0]
    return embedding


class EmbeddingCache:
    """The embeddings of one model."""

    def __init__(self, sam: Sam, folder: Path | None = None) -> None:
        self._sam = sam
        base = folder if folder is not None else cache_dir() / "embeddings"
        self.folder = base / encoder_hash(sam)
        self.rebuilt: list[Path] = []
        self._hashes: dict[Path, str] = {}

    def get(self, sample: Sample, view: int = 0) -> Tensor:
        """Return one embedding, computing and storing it where it is missing or damaged.

        Returns:
            float16 tensor (256, 64, 64) on the CPU.
        """
        path = self._path(sample, view)
        stored = self._read(path)
        if stored is None:
            fresh = embed(self._sam, view_of_image(read_rgb(sample.image), view))
            stored = fresh.half().cpu().numpy()
            with written_whole(path) as temporary, temporary.open("wb") as file:
                np.save(file, stored)
        return torch.from_numpy(stored)

    def fill(self, samples: Iterable[Sample], views: int = 1, *, show: bool = True) -> int:
        """Compute all missing embeddings, with progress; return how many were computed."""
        wanted = [(s, v) for s in samples for v in range(views) if not self._path(s, v).is_file()]
        if wanted:
            with progress("encode images", len(wanted), show=show) as bar:
                for sample, view in wanted:
                    self.get(sample, view)
                    bar.advance()
        return len(wanted)

    def _path(self, sample: Sample, view: int) -> Path:
        if sample.image not in self._hashes:
            self._hashes[sample.image] = file_sha256(sample.image)
        return self.folder / f"{self._hashes[sample.image]}-{view}.npy"

    def _read(self, path: Path) -> NDArray[np.float16] | None:
        if not path.is_file():
            return None
        try:
            stored: NDArray[np.float16] = np.load(path)
        except (ValueError, EOFError, OSError):
            stored = np.zeros(0, np.float16)
        if stored.shape != _SHAPE or not np.isfinite(stored).all():
            self.rebuilt.append(path)
            print(f"{path}: cut short or damaged; computing it again", file=sys.stderr)
            return None
        return stored


def encoder_hash(sam: Sam) -> str:
    """Return 16 hexadecimal digits over the encoder's tensors and the preprocessing."""
    digest = hashlib.sha256(_PREPROCESSING.encode())
    for name, tensor in sorted(sam.image_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
