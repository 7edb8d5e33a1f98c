"""Text embeddings as data: phrases, their vectors, and where the vectors come from.

YOLO-World's classes are embeddings of CLIP ViT-B/32. Here they come from a file, from CLIP through
open_clip, or are fixed orthonormal vectors where CLIP cannot be had; Ultralytics gets them through
`text_embedding_patch`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import ConfigError, MissingExtraError, ToolkitError, WeightsError
from toolkit.files import atomic_write
from toolkit.weights.fetch import fetch, find

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

DIMENSION = 512
"""Length of a CLIP ViT-B/32 text embedding, which YOLO-World's head is built for."""

CLIP = "CLIP ViT-B/32 (OpenAI)"
"""Source of embeddings from CLIP: an open vocabulary."""

NOT_CLIP = "not CLIP: closed vocabulary"
"""Source of vectors without meaning: the model knows its own classes and no other word."""

_SCHEMA = "1"
_CLIP_WEIGHTS = "clip-vit-b-32"
# OpenAI trained with x·sigmoid(1.702 x); the plain name stands for the exact GELU.
_CLIP_NETWORK = "ViT-B-32-quickgelu"


@dataclass(frozen=True)
class TextEmbeddings:
    """Phrases and their text embeddings.

    Attributes:
        phrases: distinct.
        vectors: float32 array (n, 512), each row of length 1.
        source: where the vectors come from, for the run and the leaderboard.
    """

    phrases: tuple[str, ...]
    vectors: NDArray[np.float32]
    source: str

    def __post_init__(self) -> None:
        """Check the vectors and normalize them; unit vectors stay as they are, bit for bit.

        Raises:
            ConfigError: a wrong dimension, repeated phrases, or a vector without direction.
        """
        expected = (len(self.phrases), DIMENSION)
        if self.vectors.shape != expected:
            raise ConfigError(
                f"text embeddings: vectors are {self.vectors.shape} but {expected} are needed "
                f"({DIMENSION} numbers per phrase); make them with CLIP ViT-B/32"
            )
        if len(set(self.phrases)) != len(self.phrases):
            raise ConfigError("text embeddings: a phrase occurs twice; keep one of them")
        lengths = np.linalg.norm(self.vectors.astype(np.float64), axis=1)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise ConfigError("text embeddings: a vector is zero or not finite; make them again")
        if np.abs(lengths - 1).max(initial=0) > 1e-6:
            unit = (self.vectors / lengths[:, None]).astype(np.float32)
            object.__setattr__(self, "vectors", unit)

    def of(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of some phrases, float32 array (len(phrases), 512).

        Raises:
            ConfigError: a phrase has no vector.
        """
        index = {phrase: i for i, phrase in enumerate(self.phrases)}
        missing = [phrase for phrase in phrases if phrase not in index]
        if missing:
            raise ConfigError(
                f"text embeddings ({self.source}): no vector for '{missing[0]}'; add one"
            )
        return self.vectors[[index[phrase] for phrase in phrases]]

    def save(self, path: Path) -> None:
        """Write a safetensors file: tensor `vectors`, phrases and source as metadata.

        Raises:
            OutputError: it cannot be written.
        """
        from safetensors.numpy import save_file

        about = {
            "schema": _SCHEMA,
            "source": self.source,
            "phrases": json.dumps(self.phrases, ensure_ascii=False),
        }
        with atomic_write(path) as temporary:
            save_file({"vectors": np.ascontiguousarray(self.vectors)}, temporary, metadata=about)


def load_text_embeddings(path: Path) -> TextEmbeddings:
    """Read a file that `TextEmbeddings.save` wrote.

    Raises:
        ConfigError: missing, another file, or of another dimension.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{path}: no such text embeddings; give a safetensors file of phrases")
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = file.metadata() or {}
            vectors = np.asarray(file.get_tensor("vectors"), np.float32)
        phrases, source = tuple(json.loads(about["phrases"])), about["source"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: no text embeddings ({error}); needs a tensor 'vectors' and the metadata "
            "'phrases' (a JSON list) and 'source'"
        ) from error
    try:
        return TextEmbeddings(phrases, vectors, source)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def orthonormal_embeddings(phrases: Sequence[str], *, seed: int = 0) -> TextEmbeddings:
    """Return fixed orthonormal vectors, one per phrase.

    They separate classes as well as any vectors and carry no meaning. The vectors depend on the
    seed and on the phrases' alphabetical order, not on the order of the argument.

    Raises:
        ConfigError: more phrases than dimensions.
    """
    ordered = tuple(sorted(set(phrases)))
    if len(ordered) > DIMENSION:
        raise ConfigError(f"{len(ordered)} phrases: at most {DIMENSION} without CLIP")
    return TextEmbeddings(ordered, _orthonormal_rows(seed)[: len(ordered)], NOT_CLIP)


@lru_cache(maxsize=2)
def _orthonormal_rows(seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((DIMENSION, DIMENSION))
    basis, triangle = np.linalg.qr(rows)
    # The signs of a QR factor depend on the library; fixing them makes the vectors portable.
    return (basis * np.sign(np.diag(triangle))).T.astype(np.float32)


def class_embeddings(
    embeddings: TextEmbeddings, prompts: Mapping[str, Sequence[str]]
) -> TextEmbeddings:
    """Average the vectors of each class's phrases into one vector under the class's name.

    Prompt ensembling as in Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision", 2021, section 3.1.4: the normalized mean of unit vectors. A class whose
    name has a vector of its own while a phrase has none (as after prompt tuning) takes that vector.

    Args:
        embeddings: of the phrases, or of the classes.
        prompts: phrases by class name.

    Raises:
        ConfigError: a class without phrases, or a phrase without a vector.
    """
    known = set(embeddings.phrases)
    means = []
    for name, phrases in prompts.items():
        if not phrases:
            raise ConfigError(f"class {name}: no phrase; add one to the data card")
        own = name in known and not set(phrases) <= known
        means.append(embeddings.of((name,) if own else phrases).mean(axis=0))
    return TextEmbeddings(tuple(prompts), np.stack(means), embeddings.source)


def clip_embeddings(phrases: Sequence[str]) -> TextEmbeddings:
    """Embed phrases with CLIP's text encoder; repeated ones count once.

    Raises:
        MissingExtraError: open_clip is not installed.
        WeightsError: CLIP's weights cannot be had or read.
    """
    open_clip = _import_open_clip()
    try:
        path = fetch(_CLIP_WEIGHTS)
    except WeightsError as error:
        raise WeightsError(
            f"text_embeddings=clip: {error}; or give a file, or orthonormal"
        ) from error
    distinct = tuple(sorted(set(phrases)))
    return TextEmbeddings(distinct, encode_texts(distinct, path, open_clip), CLIP)


def clip_or_orthonormal_embeddings(
    phrases: Sequence[str], *, log: Callable[[str], None]
) -> TextEmbeddings:
    """Embed phrases with CLIP where its library and weights can be had, else orthonormally.

    Args:
        phrases: repeated ones count once.
        log: receives the reason where CLIP cannot be had.

    Raises:
        WeightsError: CLIP's weights are here but damaged, which must not pass unnoticed.
        ConfigError: more phrases than can be separated without CLIP.
    """
    present = find(_CLIP_WEIGHTS)
    try:
        _import_open_clip()
        if present is None:
            fetch(_CLIP_WEIGHTS)
    except (MissingExtraError, WeightsError) as reason:
        log(f"class embeddings are fixed orthonormal vectors, since CLIP cannot be had: {reason}")
        return orthonormal_embeddings(phrases)
    return clip_embeddings(phrases)


def _import_open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError(
            "open-clip-torch", extra="clip", purpose="embed prompts with CLIP"
        ) from error
    return open_clip


def encode_texts(texts: Sequence[str], path: Path, open_clip: Any) -> NDArray[np.float32]:
    """Encode texts with CLIP ViT-B/32 to a float32 array (n, 512), rows of length 1.

    Raises:
        WeightsError: the file at `path` holds something else.
    """
    import torch

    try:
        model = open_clip.create_model(_CLIP_NETWORK, pretrained=str(path), device="cpu")
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path}: not CLIP ViT-B/32 ({reason}); fetch it again") from error
    tokens = open_clip.get_tokenizer(_CLIP_NETWORK)(list(texts))
    with torch.inference_mode():
        vectors: NDArray[np.float32] = model.encode_text(tokens, normalize=True).float().numpy()
    return vectors


@contextmanager
def text_embedding_patch(embeddings: TextEmbeddings) -> Iterator[None]:
    """Let Ultralytics take its text embeddings from `embeddings` inside the block.

    `WorldModel.get_text_pe` is the one place that produces them: for training
    (`WorldTrainer.generate_text_embeddings`), for validation and the averaged model
    (`set_classes`), and for prediction. The original builds CLIP, for which it installs a package
    and downloads 350 MB. Call `ultralytics_env.prepare` first.

    Raises:
        ToolkitError: this version of Ultralytics does it elsewhere.
    """
    import torch
    from ultralytics import __version__
    from ultralytics.nn.tasks import WorldModel

    original = vars(WorldModel).get("get_text_pe")
    parameters = ("self", "text", "batch", "cache_clip_model")
    if original is None or tuple(inspect.signature(original).parameters) != parameters:
        raise ToolkitError(
            f"ultralytics {__version__} computes text embeddings in an unknown way; "
            "install version 8.4.190"
        )

    def get_text_pe(
        self: Any, text: Sequence[str], batch: int = 80, cache_clip_model: bool = False
    ) -> Tensor:
        device = next(self.model.parameters()).device
        return torch.from_numpy(embeddings.of(text)).to(device)[None]

    WorldModel.get_text_pe = get_text_pe
    try:
        yield
    finally:
        WorldModel.get_text_pe = original
