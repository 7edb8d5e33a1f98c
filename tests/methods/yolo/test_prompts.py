"""Prompt banks: files, dimensions, averages, and vectors that stand in for CLIP's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import ConfigError
from toolkit.methods.yolo.prompts import (
    DIMENSION,
    NOT_CLIP,
    PromptBank,
    class_bank,
    load_bank,
    orthonormal_bank,
)


def _bank(*phrases: str) -> PromptBank:
    vectors = np.random.default_rng(1).standard_normal((len(phrases), DIMENSION))
    return PromptBank(phrases, vectors.astype(np.float32), "test")


def test_a_bank_survives_its_file(tmp_path: Path) -> None:
    bank = _bank("zerbrochener Rand, groß", "dirt")
    bank.save(tmp_path / "bank.safetensors")
    loaded = load_bank(tmp_path / "bank.safetensors")
    assert loaded.phrases == bank.phrases
    assert loaded.source == "test"
    np.testing.assert_allclose(loaded.vectors, bank.vectors, atol=1e-7)


def test_a_stored_bank_is_read_to_the_last_bit(tmp_path: Path) -> None:
    """So that a training goes on with the very vectors that it began with."""
    prompts = {f"class {i}": (f"a{i}", f"b{i}") for i in range(40)}
    bank = class_bank(orthonormal_bank([p for pair in prompts.values() for p in pair]), prompts)
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    np.testing.assert_array_equal(load_bank(path, as_stored=True).vectors, bank.vectors)
    assert not np.array_equal(load_bank(path).vectors, bank.vectors)  # rounded once more


def test_vectors_are_made_unit_vectors() -> None:
    bank = PromptBank(("a",), np.full((1, DIMENSION), 3, np.float32), "test")
    assert np.linalg.norm(bank.vectors[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("phrases", "vectors", "message"),
    [
        (("a",), np.ones((1, 768)), "512"),  # of a larger CLIP
        (("a", "b"), np.ones((1, DIMENSION)), "are needed"),  # one vector short
        (("a", "a"), np.ones((2, DIMENSION)), "twice"),
        (("a",), np.zeros((1, DIMENSION)), "zero or not finite"),
        (("a",), np.full((1, DIMENSION), np.nan), "zero or not finite"),
    ],
)
def test_unusable_vectors_are_refused(
    phrases: tuple[str, ...], vectors: np.ndarray, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptBank(phrases, vectors.astype(np.float32), "test")


def test_a_wrong_dimension_in_a_file_names_the_file(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "large.safetensors"
    about = {"phrases": '["a"]', "source": "CLIP ViT-L/14"}
    save_file({"vectors": np.ones((1, 768), np.float32)}, path, metadata=about)
    with pytest.raises(ConfigError, match=r"large\.safetensors.*512"):
        load_bank(path)


def test_other_files_are_no_banks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such prompt bank"):
        load_bank(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ConfigError, match="not a prompt bank"):
        load_bank(tmp_path / "text.safetensors")


def test_a_missing_phrase_is_named() -> None:
    with pytest.raises(ConfigError, match="'dust'"):
        _bank("dirt").of(["dirt", "dust"])


@settings(max_examples=20, deadline=None)
@given(st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=20), st.integers(0, 5))
def test_orthonormal_vectors_are_orthonormal_and_fixed(phrases: set[str], seed: int) -> None:
    bank = orthonormal_bank(sorted(phrases), seed=seed)
    gram = bank.vectors @ bank.vectors.T
    np.testing.assert_allclose(gram, np.eye(len(phrases)), atol=1e-5)
    again = orthonormal_bank(sorted(phrases, reverse=True), seed=seed)
    np.testing.assert_array_equal(bank.of(sorted(phrases)), again.of(sorted(phrases)))
    assert bank.source == NOT_CLIP


def test_too_many_phrases_for_the_dimension() -> None:
    with pytest.raises(ConfigError, match="at most 512"):
        orthonormal_bank([str(i) for i in range(DIMENSION + 1)])


def test_a_class_is_the_mean_of_its_phrases() -> None:
    bank = orthonormal_bank(["chip", "crack", "dirt"])
    classes = class_bank(bank, {"broken": ("chip", "crack"), "dirty": ("dirt",)})
    assert classes.phrases == ("broken", "dirty")
    mean = (bank.of(["chip"]) + bank.of(["crack"]))[0] / np.sqrt(2)
    np.testing.assert_allclose(classes.of(["broken"])[0], mean, atol=1e-6)
    np.testing.assert_allclose(classes.of(["dirty"]), bank.of(["dirt"]), atol=1e-6)


def test_a_class_without_phrases_is_named() -> None:
    with pytest.raises(ConfigError, match="class broken"):
        class_bank(_bank("dirt"), {"broken": ()})
