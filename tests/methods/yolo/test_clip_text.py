"""CLIP's text side: banks from an encoder, and what is said where it cannot be had."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.errors import MissingExtraError, WeightsError
from toolkit.methods.yolo import clip_text
from toolkit.methods.yolo.clip_text import (
    CLIP,
    clip_bank,
    clip_or_orthonormal_bank,
    text_encoder,
)
from toolkit.methods.yolo.prompts import DIMENSION, NOT_CLIP, class_bank


def _encode(texts: Sequence[str]) -> np.ndarray:
    """Stand in for CLIP: a vector per text that depends on nothing else."""
    rows = [np.random.default_rng(len(t)).standard_normal(DIMENSION) for t in texts]
    return np.array(rows, np.float32)


def test_a_bank_holds_what_the_encoder_says_and_where_it_comes_from() -> None:
    bank = clip_bank(["a large break", "dirt", "dirt"], encode=_encode)
    assert bank.phrases == ("a large break", "dirt")
    assert bank.source == CLIP != NOT_CLIP
    raw = _encode(["dirt"])[0]
    np.testing.assert_allclose(bank.of(["dirt"])[0], raw / np.linalg.norm(raw), atol=1e-6)


def test_several_phrases_of_a_class_are_averaged() -> None:
    bank = clip_bank(["chip", "crack"], encode=_encode)
    mean = bank.of(["chip"]) + bank.of(["crack"])
    found = class_bank(bank, {"broken": ("chip", "crack")}).of(["broken"])
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_open_clip(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_open_clip)
    with pytest.raises(MissingExtraError, match=r"\[clip\]"):
        clip_bank(["dirt"])


def test_without_weights_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")

    def fetch(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pt: put the file there (no network)")

    monkeypatch.setattr(clip_text, "fetch", fetch)
    with pytest.raises(WeightsError, match=r"clip-vit-b-32\.pt.*give a bank file"):
        clip_bank(["dirt"])


@pytest.mark.parametrize("missing", ["library", "weights"])
def test_without_clip_vectors_are_orthonormal_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def library() -> object:
        if missing == "library":
            raise MissingExtraError("open-clip-torch", extra="clip", purpose="embed prompts")
        return object()

    def fetch(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pt: put the file there (no network)")

    monkeypatch.setattr(clip_text, "_open_clip", library)
    monkeypatch.setattr(clip_text, "find", lambda name: None)
    monkeypatch.setattr(clip_text, "fetch", fetch)
    said: list[str] = []
    bank = clip_or_orthonormal_bank(["dirt", "chip"], log=said.append)
    assert bank.source == NOT_CLIP
    np.testing.assert_allclose(bank.vectors @ bank.vectors.T, np.eye(2), atol=1e-6)
    (line,) = said
    assert "since CLIP cannot be had" in line
    assert ("[clip]" if missing == "library" else "no network") in line


def test_clip_is_taken_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_text, "_open_clip", object)
    monkeypatch.setattr(clip_text, "find", lambda name: Path("clip.pt"))
    monkeypatch.setattr(clip_text, "_open_clip_encoder", lambda: _encode)
    bank = clip_or_orthonormal_bank(["dirt", "chip"], log=pytest.fail)
    assert bank.source == CLIP
    np.testing.assert_array_equal(bank.vectors, clip_bank(["dirt", "chip"]).vectors)


def test_damaged_clip_weights_are_no_reason_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pt: damaged")

    monkeypatch.setattr(clip_text, "find", find)
    with pytest.raises(WeightsError, match="damaged"):
        clip_or_orthonormal_bank(["dirt"], log=pytest.fail)


def test_another_file_is_not_clip(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"other\.pt: not CLIP"):
        text_encoder(path, open_clip)


def test_texts_are_tokenised_and_encoded_to_unit_length(tmp_path: Path) -> None:
    class Network:
        def encode_text(self, tokens: torch.Tensor, *, normalize: bool) -> torch.Tensor:
            assert normalize
            return torch.nn.functional.normalize(tokens.float().repeat(1, 256), dim=1)

    asked: list[str] = []

    def create_model(name: str, *, pretrained: str, device: str) -> Network:
        asked.append(name)
        return Network()

    library = SimpleNamespace(
        create_model=create_model,
        get_tokenizer=lambda name: lambda texts: torch.tensor([[len(t), 1] for t in texts]),
    )
    vectors = text_encoder(tmp_path / "clip.pt", library)(["dirt", "a chip"])
    assert asked == ["ViT-B-32-quickgelu"]  # OpenAI's activation, not the exact GELU
    assert vectors.shape == (2, DIMENSION)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
