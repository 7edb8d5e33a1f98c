"""Image embeddings on disk: computed once per image, view and model, shared by all runs.

<cache>/embeddings/<model hash>/<image sha256>-<view>[-<window>].npy

Each is float16, (256, 64, 64), 2 MiB.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from concurrent.futures import as_completed
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample, file_sha256
from toolkit.files import atomic_write
from toolkit.home import cache_dir
from toolkit.methods.sam.frames import WHOLE, Frame, seen_in
from toolkit.methods.sam.fused import for_encoding
from toolkit.methods.sam.workers import worker_count, workers
from toolkit.progress import progress
from toolkit.runs.environment import computes_bfloat16

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_PREPROCESSING = "longest-side-1024, bfloat16 where the device has it"
_SHAPE = (256, 64, 64)


class Embeddings(Protocol):
    """Where the embeddings of images come from."""

    def get(self, sample: Sample, frame: Frame = WHOLE) -> Tensor:
        """Return the embedding of what a frame shows of an image, float (256, 64, 64)."""


@torch.no_grad()
def embed(sam: Sam, image: NDArray[np.uint8]) -> Tensor:
    """Run the image encoder on one RGB image (H, W, 3), in bfloat16 where that is native.

    Returns:
        float32 tensor (256, 64, 64) on the model's device.
    """
    with torch.autocast(sam.device.type, torch.bfloat16, enabled=computes_bfloat16(sam.device)):
        return _encode(sam, image).float()


class LiveEmbeddings:
    """Embeddings computed anew each time, with their gradients: the encoder itself learns."""

    def __init__(self, sam: Sam) -> None:
        self._sam = sam

    def get(self, sample: Sample, frame: Frame = WHOLE) -> Tensor:
        """Return one embedding, float32 (256, 64, 64) on the model's device."""
        return _encode(self._sam, seen_in(read_rgb(sample.image), frame))


def _encode(sam: Sam, image: NDArray[np.uint8]) -> Tensor:
    from segment_anything.utils.transforms import ResizeLongestSide

    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    pixels = torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1).to(sam.device)
    embedding: Tensor = sam.image_encoder(sam.preprocess(pixels.float())[None])[0]
    return embedding


class ImageEmbeddings:
    """The embeddings of one image's frames, in memory."""

    def __init__(self, sam: Sam, image: NDArray[np.uint8]) -> None:
        self._sam, self._image = sam, image
        self._known: dict[Frame, Tensor] = {}

    def __call__(self, frame: Frame) -> Tensor:
        """Return one embedding, float32 (256, 64, 64) on the model's device."""
        if frame not in self._known:
            self._known[frame] = embed(self._sam, seen_in(self._image, frame))
        return self._known[frame]


class EmbeddingCache:
    """The embeddings of one model."""

    def __init__(self, sam: Sam, folder: Path | None = None) -> None:
        self._sam = sam
        base = folder if folder is not None else cache_dir() / "embeddings"
        self.folder = base / encoder_hash(sam)
        self.rebuilt: list[Path] = []
        self._hashes: dict[Path, str] = {}

    def get(self, sample: Sample, frame: Frame = WHOLE) -> Tensor:
        """Return one embedding, computing and storing it where it is missing or damaged.

        Returns:
            float16 tensor (256, 64, 64) on the CPU.
        """
        path = self._path(sample, frame)
        stored = self._read(path)
        if stored is None:
            fresh = embed(self._encoding, seen_in(read_rgb(sample.image), frame))
            stored = fresh.half().cpu().numpy()
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, stored)
        return torch.from_numpy(stored)

    def fill(self, what: Iterable[tuple[Sample, Frame]], *, show: bool = True) -> int:
        """Compute all missing embeddings, with progress; return how many were computed.

        On a processor each of torch's threads takes whole images.
        """
        paths = {self._path(sample, frame): (sample, frame) for sample, frame in what}
        wanted = [one for path, one in paths.items() if not path.is_file()]
        if not wanted:
            return 0
        _ = self._encoding  # made here, or several threads would make it
        with (
            progress("encode images", len(wanted), show=show) as bar,
            workers(worker_count(self._sam.device)) as pool,
        ):
            for done in as_completed([pool.submit(self.get, *one) for one in wanted]):
                done.result()
                bar.advance()
        return len(wanted)

    @cached_property
    def _encoding(self) -> Sam:
        return for_encoding(self._sam)

    def _path(self, sample: Sample, frame: Frame) -> Path:
        if sample.image not in self._hashes:
            self._hashes[sample.image] = file_sha256(sample.image)
        where = "".join(f"-{side}" for side in frame.window or ())
        return self.folder / f"{self._hashes[sample.image]}-{frame.view}{where}.npy"

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
