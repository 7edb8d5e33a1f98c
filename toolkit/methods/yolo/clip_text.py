"""Text embeddings of CLIP ViT-B/32, through open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import MissingExtraError, WeightsError
from toolkit.methods.yolo.prompts import PromptBank, orthonormal_bank
from toolkit.weights.fetch import fetch, find

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP = "CLIP ViT-B/32 (OpenAI)"
"""Source of banks that this module makes: an open vocabulary."""

_WEIGHTS = "clip-vit-b-32"
# OpenAI trained with x·sigmoid(1.702 x); the plain name stands for the exact GELU.
_NETWORK = "ViT-B-32-quickgelu"

Encoder = Callable[[Sequence[str]], "NDArray[np.float32]"]


def clip_bank(phrases: Sequence[str], *, encode: Encoder | None = None) -> PromptBank:
    """Embed phrases with CLIP's text encoder.

    Args:
        phrases: in any order, repeated ones once.
        encode: gives vectors, float32 array (n, 512), for n texts; CLIP itself if None.

    Raises:
        MissingExtraError: open_clip is not installed.
        WeightsError: CLIP's weights cannot be had or read.
    """
    distinct = tuple(sorted(set(phrases)))
    vectors = (encode or _open_clip_encoder())(distinct)
    return PromptBank(distinct, np.asarray(vectors, np.float32), CLIP)


def clip_or_orthonormal_bank(phrases: Sequence[str], *, log: Callable[[str], None]) -> PromptBank:
    """Embed phrases with CLIP where its library and weights can be had, else at right angles.

    Args:
        phrases: in any order, repeated ones once.
        log: is told why not CLIP; the bank's source tells it, too.

    Raises:
        WeightsError: CLIP's weights are here and damaged, which is no reason to do without.
        ConfigError: more phrases than can be told apart without CLIP.
    """
    present = find(_WEIGHTS)
    try:
        _open_clip()
        if present is None:
            fetch(_WEIGHTS)
    except (MissingExtraError, WeightsError) as reason:
        log(f"prompts are fixed orthonormal vectors, since CLIP cannot be had: {reason}")
        return orthonormal_bank(phrases)
    return clip_bank(phrases)


def _open_clip() -> object:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError(
            "open-clip-torch", extra="clip", purpose="embed prompts with CLIP"
        ) from error
    library: object = open_clip
    return library


def _open_clip_encoder() -> Encoder:
    open_clip = _open_clip()
    try:
        path = fetch(_WEIGHTS)
    except WeightsError as error:
        raise WeightsError(
            f"prompt_bank=clip: {error}; or give a bank file, or orthonormal"
        ) from error
    return text_encoder(path, open_clip)


def text_encoder(path: Path, open_clip: object) -> Encoder:
    """Load CLIP and return its text side.

    Args:
        path: OpenAI's file, or a state dict of the same network.
        open_clip: the imported library.

    Raises:
        WeightsError: the file holds something else.
    """
    import torch

    library: object = open_clip
    try:
        model = library.create_model(_NETWORK, pretrained=str(path), device="cpu")  # type: ignore[attr-defined]
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path}: not CLIP ViT-B/32 ({reason}); fetch it again") from error
    tokenize = library.get_tokenizer(_NETWORK)  # type: ignore[attr-defined]

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors = model.encode_text(tokenize(list(texts)), normalize=True)
        found: NDArray[np.float32] = vectors.float().numpy()
        return found

    return encode
