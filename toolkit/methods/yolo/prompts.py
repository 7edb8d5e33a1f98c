"""Text embeddings as data: phrases, their vectors, and where the vectors come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import ConfigError
from toolkit.files import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSION = 512
"""Length of a CLIP ViT-B/32 text embedding, which YOLO-World's head is built for."""

NOT_CLIP = "not CLIP: closed vocabulary"
"""Source of vectors that carry no meaning: the model knows its own classes and no other word."""

_SCHEMA = "1"


@dataclass(frozen=True)
class PromptBank:
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
        """Refuse what YOLO-World cannot use.

        Raises:
            ConfigError: a wrong dimension, repeated phrases, or a vector without direction.
        """
        expected = (len(self.phrases), DIMENSION)
        if self.vectors.shape != expected:
            raise ConfigError(
                f"prompt bank: vectors are {self.vectors.shape} but {expected} are needed "
                f"(one of {DIMENSION} numbers per phrase); make the bank with CLIP ViT-B/32"
            )
        if len(set(self.phrases)) != len(self.phrases):
            raise ConfigError("prompt bank: a phrase stands in it twice; keep one of them")
        lengths = np.linalg.norm(self.vectors, axis=1)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise ConfigError("prompt bank: a vector is zero or not finite; make the bank anew")
        unit = (self.vectors / lengths[:, None]).astype(np.float32)
        object.__setattr__(self, "vectors", unit)

    def of(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of some phrases, float32 array (len(phrases), 512).

        Raises:
            ConfigError: a phrase is not in the bank.
        """
        index = {phrase: i for i, phrase in enumerate(self.phrases)}
        missing = [phrase for phrase in phrases if phrase not in index]
        if missing:
            raise ConfigError(
                f"prompt bank ({self.source}): no vector for '{missing[0]}'; add it to the bank"
            )
        return self.vectors[[index[phrase] for phrase in phrases]]

    def save(self, path: Path) -> None:
        """Write the bank as a safetensors file (tensor `vectors`, phrases and source beside it).

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


def load_bank(path: Path, *, as_stored: bool = False) -> PromptBank:
    """Read a bank file.

    Args:
        path: the file.
        as_stored: take unit vectors to the last bit as they are; making them unit vectors once more
            rounds again.

    Raises:
        ConfigError: missing, not a bank, of another dimension.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{path}: no such prompt bank; give a safetensors file of phrases")
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = file.metadata() or {}
            vectors = file.get_tensor("vectors")
        phrases = json.loads(about["phrases"])
        source = about["source"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a prompt bank ({error}); it holds a tensor 'vectors' and the texts "
            "'phrases' (a JSON list) and 'source'"
        ) from error
    vectors = np.asarray(vectors, np.float32)
    try:
        bank = PromptBank(tuple(phrases), vectors, source)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if as_stored:
        object.__setattr__(bank, "vectors", vectors)
    return bank


def orthonormal_bank(phrases: Sequence[str], *, seed: int = 0) -> PromptBank:
    """Give each phrase a fixed vector at right angles to all others.

    They tell classes apart as well as any vectors, and say nothing of other words. The vectors
    depend on the seed and on the phrases' alphabetical order, not on the order they are given in.

    Raises:
        ConfigError: more phrases than dimensions.
    """
    ordered = tuple(sorted(set(phrases)))
    if len(ordered) > DIMENSION:
        raise ConfigError(f"{len(ordered)} prompts: at most {DIMENSION} can be told apart")
    return PromptBank(ordered, _orthonormal_rows(seed)[: len(ordered)], NOT_CLIP)


@lru_cache(maxsize=2)
def _orthonormal_rows(seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((DIMENSION, DIMENSION))
    basis, triangle = np.linalg.qr(rows)
    # The signs of a QR factor are the library's choice; this makes them everybody's.
    return (basis * np.sign(np.diag(triangle))).T.astype(np.float32)


def class_bank(bank: PromptBank, prompts: Mapping[str, Sequence[str]]) -> PromptBank:
    """Average the vectors of each class's phrases into one vector under the class's name.

    The mean of unit vectors, made a unit vector again (prompt ensembling as in Radford et al.,
    "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1.4).

    Args:
        bank: has every phrase.
        prompts: phrases by class name.

    Raises:
        ConfigError: a class without phrases, or a phrase that the bank lacks.
    """
    means = []
    for name, phrases in prompts.items():
        if not phrases:
            raise ConfigError(f"class {name}: no prompt; name one in the data card")
        means.append(bank.of(phrases).mean(axis=0))
    return PromptBank(tuple(prompts), np.stack(means), bank.source)


def known_by_class(
    bank: PromptBank, prompts: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Take a class's own vector where a bank knows the class but not all of its phrases.

    So is a bank that was tuned: it has one vector per class, under the class's name.

    Args:
        bank: phrases, or classes.
        prompts: phrases by class name.
    """
    known = set(bank.phrases)
    return {
        name: (name,) if name in known and not set(phrases) <= known else phrases
        for name, phrases in prompts.items()
    }
