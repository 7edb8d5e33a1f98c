"""Embeddings of images and of their views: in memory, and cached on disk, computed in threads.

Layers of SAM are small: two threads that share one layer wait for each other most of the time,
while two that work on other images, or on other prompts, are nearly twice as fast as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from toolkit.array_cache import ArrayCache
from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.inference.engines import lasting_engine
from toolkit.methods.sam.encoder import Encoder, encoder_graph
from toolkit.methods.sam.tta import WHOLE, View
from toolkit.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_SHAPE = (256, 64, 64)


class ViewEmbeddings:
    """The embeddings of one image's views, each computed once and kept in memory.

    Args:
        encoder: computes them.
        image: RGB, uint8 array (H, W, 3).
        store: keeps them on disk as well; None for memory alone.

    Attributes:
        read: how many were read from the store.
    """

    def __init__(
        self, encoder: Encoder, image: NDArray[np.uint8], store: EmbeddingCache | None = None
    ) -> None:
        self._encoder, self._image, self._store = encoder, image, store
        self._digest = "" if store is None else pixels_sha256(image)
        self._known: dict[View, Tensor] = {}
        self.read = 0

    def __call__(self, view: View) -> Tensor:
        """Return one embedding, float16 (256, 64, 64)."""
        if view not in self._known:
            if self._store is None:
                self._known[view] = self._encoder(view.of_image(self._image))
            else:
                self.read += self._store.has(self._digest, view)
                self._known[view] = self._store.of_pixels(self._image, self._digest, view)
        return self._known[view]


class EmbeddingCache:
    """Embeddings of one encoder on disk: computed once per picture and view, shared by all runs.

    Each is a float16 array (256, 64, 64) of 2 MiB, keyed by the image's pixels and the view, in a
    folder of its own per encoder, engine and precision.

    Args:
        sam: the model.
        encoder_sha256: hash of its image encoder.
        folder: the cache folder; `<home>/cache` if None.
        encoder: computes what is missing; in torch if None.
    """

    def __init__(
        self,
        sam: Sam,
        encoder_sha256: str,
        folder: Path | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self._encoder = Encoder(sam) if encoder is None else encoder
        self._made_of = sam, encoder_sha256, folder
        self._threads = thread_count(sam.device)
        recipe = {
            "encoder": encoder_sha256,
            "size": "longest side 1024",
            "engine": self._encoder.name,
            "format": 2,
        }
        self._arrays = ArrayCache(
            "embeddings", recipe, shape=_SHAPE, dtype=np.float16, folder=folder
        )
        self._hashes: dict[Path, str] = {}

    def encoded_by(self, encoder: Encoder) -> EmbeddingCache:
        """Return the cache beside this one whose missing embeddings another encoder computes."""
        return EmbeddingCache(*self._made_of, encoder)

    @property
    def engine(self) -> str:
        """What computes missing embeddings, such as `openvino bfloat16`."""
        return self._encoder.name

    def get(self, sample: Sample, view: View = WHOLE) -> Tensor:
        """Return one embedding, computing and storing it where it is missing or damaged.

        Returns:
            float16 tensor (256, 64, 64) on the CPU.
        """
        return self._stored(self._key(sample, view), lambda: view.of_image(read_rgb(sample.image)))

    def of_pixels(self, image: NDArray[np.uint8], digest: str, view: View) -> Tensor:
        """Return the embedding of a decoded image's view; `digest` is its `pixels_sha256`."""
        return self._stored(_key(digest, view), lambda: view.of_image(image))

    def _stored(self, key: str, picture: Callable[[], NDArray[np.uint8]]) -> Tensor:
        def compute() -> NDArray[np.float16]:
            array: NDArray[np.float16] = self._encoder(picture()).cpu().numpy()
            return array

        return torch.from_numpy(self._arrays.get_or_compute(key, compute))

    def has(self, digest: str, view: View) -> bool:
        """Return whether an embedding is stored."""
        return _key(digest, view) in self._arrays

    def fill(self, wanted: Iterable[tuple[Sample, View]], *, show: bool = True) -> int:
        """Compute all missing embeddings, with progress; return how many were computed.

        On a processor each of torch's threads takes whole images.
        """
        keys = {self._key(sample, view): (sample, view) for sample, view in wanted}
        missing = [one for key, one in keys.items() if key not in self._arrays]
        if not missing:
            return 0
        with (
            progress("encode images", len(missing), show=show) as bar,
            thread_pool(self._threads) as pool,
        ):
            for done in as_completed([pool.submit(self.get, *one) for one in missing]):
                done.result()
                bar.advance()
        return len(missing)

    def _key(self, sample: Sample, view: View) -> str:
        if sample.image not in self._hashes:
            self._hashes[sample.image] = pixels_sha256(read_rgb(sample.image))
        return _key(self._hashes[sample.image], view)


def pixels_sha256(image: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image's shape and pixels."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _key(digest: str, view: View) -> str:
    crop = "".join(f"-{side}" for side in view.crop or ())
    return f"{digest}-{view.number}{crop}"


def training_cache(sam: Sam, encoder_sha256: str, samples: Sequence[Sample]) -> EmbeddingCache:
    """Return the cache of a training: its encoder runs in the fastest engine that is installed.

    Args:
        sam: the model.
        encoder_sha256: hash of its image encoder.
        samples: of the training part; when the engine's files are made, it is compared with torch
            on the first defective ones.
    """
    found = None
    if sam.device.type == "cpu":
        defects = [sample for sample in samples if sample.is_defect]
        graph = encoder_graph(sam, encoder_sha256, lambda: defects)
        found = lasting_engine(graph, streams=thread_count(sam.device))
    encoder = Encoder(sam) if found is None else Encoder(sam, *found)
    return EmbeddingCache(sam, encoder_sha256, encoder=encoder)


def thread_count(device: torch.device) -> int:
    """Return how many threads are of use: torch's on a processor, one elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads, each with its share of torch's, as the caller's has meanwhile.

    Work that has not begun when the block is left is dropped, so that an error does not wait.
    """
    threads = torch.get_num_threads()
    share = max(threads // count, 1)
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(share,))
    torch.set_num_threads(share)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
