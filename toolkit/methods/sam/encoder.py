"""The image encoder: run faster than it is stored, its outputs cached on disk, in threads.

Layers of SAM are small: two threads that share one layer wait for each other most of the time,
while two that work on other images, or on other prompts, are nearly twice as fast as one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from toolkit.array_cache import ArrayCache
from toolkit.data.images import read_rgb
from toolkit.data.types import Sample, file_sha256
from toolkit.methods.sam.tta import WHOLE, View
from toolkit.progress import progress
from toolkit.runs.environment import computes_bfloat16

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from segment_anything.modeling import Sam

_SHAPE = (256, 64, 64)


@torch.no_grad()
def encode(sam: Sam, image: NDArray[np.uint8]) -> Tensor:
    """Run the image encoder on one RGB image (H, W, 3), in bfloat16 where that is native.

    Returns:
        float32 tensor (256, 64, 64) on the model's device.
    """
    from segment_anything.utils.transforms import ResizeLongestSide

    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    pixels = torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1).to(sam.device)
    with torch.autocast(sam.device.type, torch.bfloat16, enabled=computes_bfloat16(sam.device)):
        embedding: Tensor = sam.image_encoder(sam.preprocess(pixels.float())[None])[0]
    return embedding.float()


class ViewEmbeddings:
    """The embeddings of one image's views, each computed once and kept in memory."""

    def __init__(self, sam: Sam, image: NDArray[np.uint8]) -> None:
        self._sam, self._image = sam, image
        self._known: dict[View, Tensor] = {}

    def __call__(self, view: View) -> Tensor:
        """Return one embedding, float32 (256, 64, 64) on the model's device."""
        if view not in self._known:
            self._known[view] = encode(self._sam, view.of_image(self._image))
        return self._known[view]


class EmbeddingCache:
    """Embeddings of one encoder on disk: computed once per image and view, shared by all runs.

    Each is a float16 array (256, 64, 64) of 2 MiB, keyed by the image's content and the view.

    Args:
        sam: the model.
        encoder_sha256: hash of its image encoder.
        folder: the cache folder; `<home>/cache` if None.
    """

    def __init__(self, sam: Sam, encoder_sha256: str, folder: Path | None = None) -> None:
        self._sam = fuse_encoder(sam)
        recipe = {
            "encoder": encoder_sha256,
            "size": "longest side 1024",
            "bfloat16": computes_bfloat16(sam.device),
        }
        self._arrays = ArrayCache(
            "embeddings", recipe, shape=_SHAPE, dtype=np.float16, folder=folder
        )
        self._hashes: dict[Path, str] = {}

    def get(self, sample: Sample, view: View = WHOLE) -> Tensor:
        """Return one embedding, computing and storing it where it is missing or damaged.

        Returns:
            float16 tensor (256, 64, 64) on the CPU.
        """

        def compute() -> NDArray[np.float16]:
            embedding = encode(self._sam, view.of_image(read_rgb(sample.image)))
            array: NDArray[np.float16] = embedding.half().cpu().numpy()
            return array

        return torch.from_numpy(self._arrays.get_or_compute(self._key(sample, view), compute))

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
            thread_pool(thread_count(self._sam.device)) as pool,
        ):
            for done in as_completed([pool.submit(self.get, *one) for one in missing]):
                done.result()
                bar.advance()
        return len(missing)

    def _key(self, sample: Sample, view: View) -> str:
        if sample.image not in self._hashes:
            self._hashes[sample.image] = file_sha256(sample.image)
        crop = "".join(f"-{side}" for side in view.crop or ())
        return f"{self._hashes[sample.image]}-{view.number}{crop}"


def fuse_encoder(sam: Sam) -> Sam:
    """Return a SAM whose encoder computes the same up to rounding, in a third less time.

    Outside of training a batch norm is a factor and a shift per channel, which the convolution
    before it can carry, and attention with its table of biases is one call of torch's. Everything
    else is shared; so is an encoder that is not MobileSAM's.
    """
    if not _conv_bn_pairs(sam.image_encoder):
        return sam
    encoder = copy.deepcopy(sam.image_encoder).eval()
    for module, convolution, norm in _conv_bn_pairs(encoder):
        module.c, module.bn = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    for block in encoder.modules():
        attention = getattr(block, "attn", None)
        if isinstance(attention, nn.Module) and hasattr(attention, "attention_biases"):
            block.attn = _Attention(attention)
    other = copy.copy(sam)
    other._modules = {**sam._modules, "image_encoder": encoder}
    return other


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


def _conv_bn_pairs(encoder: nn.Module) -> list[tuple[nn.Module, nn.Conv2d, nn.BatchNorm2d]]:
    """Return TinyViT's modules that are a convolution `c` and a batch norm `bn`, and these."""
    found = []
    for module in encoder.modules():
        convolution, norm = getattr(module, "c", None), getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            found.append((module, convolution, norm))
    return found


class _Attention(nn.Module):
    """TinyViT's attention in windows, (B, N, C) to (B, N, C), its biases added by torch itself."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self.original
        batch, number, _ = x.shape
        parts = own.qkv(own.norm(x)).view(batch, number, own.num_heads, -1)
        query, key, value = (
            part.transpose(1, 2) for part in parts.split([own.key_dim, own.key_dim, own.d], dim=3)
        )
        bias = own.ab.to(query)[None]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, scale=own.scale
        )
        out: Tensor = own.proj(mixed.transpose(1, 2).reshape(batch, number, own.dh))
        return out
