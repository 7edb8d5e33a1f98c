"""Text embeddings: files, averages, CLIP and its substitute, and the patch of Ultralytics."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import ultralytics_env
from toolkit.errors import ConfigError, MissingExtraError, ToolkitError, WeightsError
from toolkit.methods.yolo import text_embeddings
from toolkit.methods.yolo.network import build_network
from toolkit.methods.yolo.text_embeddings import (
    CLIP,
    DIMENSION,
    NOT_CLIP,
    TextEmbeddings,
    class_embeddings,
    clip_embeddings,
    clip_or_orthonormal_embeddings,
    encode_texts,
    load_text_embeddings,
    orthonormal_embeddings,
    text_embedding_patch,
)


def _bank(*phrases: str) -> TextEmbeddings:
    vectors = np.random.default_rng(1).standard_normal((len(phrases), DIMENSION))
    return TextEmbeddings(phrases, vectors.astype(np.float32), "test")


def test_a_bank_survives_its_file(tmp_path: Path) -> None:
    bank = _bank("zerbrochener Rand, groß", "dirt")
    bank.save(tmp_path / "bank.safetensors")
    loaded = load_text_embeddings(tmp_path / "bank.safetensors")
    assert loaded.phrases == bank.phrases
    assert loaded.source == "test"
    np.testing.assert_allclose(loaded.vectors, bank.vectors, atol=1e-7)


def test_a_stored_bank_is_read_to_the_last_bit(tmp_path: Path) -> None:
    """So that a training goes on with the very vectors that it began with."""
    prompts = {f"class {i}": (f"a{i}", f"b{i}") for i in range(40)}
    bank = class_embeddings(
        orthonormal_embeddings([p for pair in prompts.values() for p in pair]), prompts
    )
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    np.testing.assert_array_equal(load_text_embeddings(path).vectors, bank.vectors)


def test_vectors_are_made_unit_vectors() -> None:
    bank = TextEmbeddings(("a",), np.full((1, DIMENSION), 3, np.float32), "test")
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
        TextEmbeddings(phrases, vectors.astype(np.float32), "test")


def test_a_wrong_dimension_in_a_file_names_the_file(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "large.safetensors"
    about = {"phrases": '["a"]', "source": "CLIP ViT-L/14"}
    save_file({"vectors": np.ones((1, 768), np.float32)}, path, metadata=about)
    with pytest.raises(ConfigError, match=r"large\.safetensors.*512"):
        load_text_embeddings(path)


def test_other_files_are_no_banks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such text embeddings"):
        load_text_embeddings(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ConfigError, match="no text embeddings"):
        load_text_embeddings(tmp_path / "text.safetensors")


def test_a_missing_phrase_is_named() -> None:
    with pytest.raises(ConfigError, match="'dust'"):
        _bank("dirt").of(["dirt", "dust"])


@settings(max_examples=20, deadline=None)
@given(st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=20), st.integers(0, 5))
def test_orthonormal_vectors_are_orthonormal_and_fixed(phrases: set[str], seed: int) -> None:
    bank = orthonormal_embeddings(sorted(phrases), seed=seed)
    gram = bank.vectors @ bank.vectors.T
    np.testing.assert_allclose(gram, np.eye(len(phrases)), atol=1e-5)
    again = orthonormal_embeddings(sorted(phrases, reverse=True), seed=seed)
    np.testing.assert_array_equal(bank.of(sorted(phrases)), again.of(sorted(phrases)))
    assert bank.source == NOT_CLIP


def test_too_many_phrases_for_the_dimension() -> None:
    with pytest.raises(ConfigError, match="at most 512"):
        orthonormal_embeddings([str(i) for i in range(DIMENSION + 1)])


def test_a_class_is_the_mean_of_its_phrases() -> None:
    bank = orthonormal_embeddings(["chip", "crack", "dirt"])
    classes = class_embeddings(bank, {"broken": ("chip", "crack"), "dirty": ("dirt",)})
    assert classes.phrases == ("broken", "dirty")
    mean = (bank.of(["chip"]) + bank.of(["crack"]))[0] / np.sqrt(2)
    np.testing.assert_allclose(classes.of(["broken"])[0], mean, atol=1e-6)
    np.testing.assert_allclose(classes.of(["dirty"]), bank.of(["dirt"]), atol=1e-6)


def test_a_class_without_phrases_is_named() -> None:
    with pytest.raises(ConfigError, match="class broken"):
        class_embeddings(_bank("dirt"), {"broken": ()})


@pytest.mark.parametrize(
    ("phrases", "expected"),
    [
        (["chip", "gap", "broken"], ("chip", "gap")),  # all phrases are known
        (["broken", "chip"], ("broken",)),  # trained embeddings: the class
        (["chip"], None),  # neither: the missing phrase is named
    ],
)
def test_a_vector_of_the_class_itself_replaces_missing_phrases(
    phrases: list[str], expected: tuple[str, ...] | None
) -> None:
    known = orthonormal_embeddings(phrases)
    prompts = {"broken": ("chip", "gap")}
    if expected is None:
        with pytest.raises(ConfigError, match="'gap'"):
            class_embeddings(known, prompts)
        return
    mean = known.of(expected).mean(axis=0)
    found = class_embeddings(known, prompts).of(["broken"])[0]
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)


def _encode(texts: Sequence[str], *_: Any) -> np.ndarray:
    """Stand in for CLIP: a vector per text that depends on nothing else."""
    rows = [np.random.default_rng(len(t)).standard_normal(DIMENSION) for t in texts]
    return np.array(rows, np.float32)


@pytest.fixture
def stand_in_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_embeddings, "_import_open_clip", object)
    monkeypatch.setattr(text_embeddings, "find", lambda name: Path("clip.pt"))
    monkeypatch.setattr(text_embeddings, "fetch", lambda name: Path("clip.pt"))
    monkeypatch.setattr(text_embeddings, "encode_texts", _encode)


def test_embeddings_of_clip_name_their_source(stand_in_clip: None) -> None:
    found = clip_embeddings(["a large break", "dirt", "dirt"])
    assert found.phrases == ("a large break", "dirt")
    assert found.source == CLIP != NOT_CLIP
    raw = _encode(["dirt"])[0]
    np.testing.assert_allclose(found.of(["dirt"])[0], raw / np.linalg.norm(raw), atol=1e-6)


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_open_clip(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_open_clip)
    with pytest.raises(MissingExtraError, match=r"\[clip\]"):
        clip_embeddings(["dirt"])


def test_without_weights_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")

    def fetch(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pt: put the file there (no network)")

    monkeypatch.setattr(text_embeddings, "fetch", fetch)
    with pytest.raises(WeightsError, match=r"clip-vit-b-32\.pt.*or give a file"):
        clip_embeddings(["dirt"])


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

    monkeypatch.setattr(text_embeddings, "_import_open_clip", library)
    monkeypatch.setattr(text_embeddings, "find", lambda name: None)
    monkeypatch.setattr(text_embeddings, "fetch", fetch)
    logged: list[str] = []
    bank = clip_or_orthonormal_embeddings(["dirt", "chip"], log=logged.append)
    assert bank.source == NOT_CLIP
    np.testing.assert_allclose(bank.vectors @ bank.vectors.T, np.eye(2), atol=1e-6)
    (line,) = logged
    assert "since CLIP cannot be had" in line
    assert ("[clip]" if missing == "library" else "no network") in line


def test_clip_is_taken_where_it_can_be_had(stand_in_clip: None) -> None:
    found = clip_or_orthonormal_embeddings(["dirt", "chip"], log=pytest.fail)
    assert found.source == CLIP
    np.testing.assert_array_equal(found.vectors, clip_embeddings(["dirt", "chip"]).vectors)


def test_damaged_clip_weights_are_no_reason_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Path:
        raise WeightsError(f"weights/{name}.pt: damaged")

    monkeypatch.setattr(text_embeddings, "find", find)
    with pytest.raises(WeightsError, match="damaged"):
        clip_or_orthonormal_embeddings(["dirt"], log=pytest.fail)


def test_another_file_is_not_clip(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"other\.pt: not CLIP"):
        encode_texts(["dirt"], path, open_clip)


def test_texts_are_tokenised_and_encoded_to_unit_length(tmp_path: Path) -> None:
    class Network:
        def encode_text(self, tokens: torch.Tensor, *, normalize: bool) -> torch.Tensor:
            assert normalize
            return torch.nn.functional.normalize(tokens.float().repeat(1, 256), dim=1)

    created: list[str] = []

    def create_model(name: str, *, pretrained: str, device: str) -> Network:
        created.append(name)
        return Network()

    library = SimpleNamespace(
        create_model=create_model,
        get_tokenizer=lambda name: lambda texts: torch.tensor([[len(t), 1] for t in texts]),
    )
    vectors = encode_texts(["dirt", "a chip"], tmp_path / "clip.pt", library)
    assert created == ["ViT-B-32-quickgelu"]  # OpenAI's activation, not the exact GELU
    assert vectors.shape == (2, DIMENSION)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


NAMES = ["broken_large", "broken_small", "contamination"]


@pytest.fixture
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any attempt to build CLIP an error."""
    ultralytics_env.prepare()

    def build_text_model(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ultralytics asked for CLIP")

    # The real module cannot even be imported without CLIP.
    stand_in = ModuleType("ultralytics.nn.text_model")
    stand_in.build_text_model = build_text_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)


@pytest.fixture
def world(no_clip: None) -> Any:
    return build_network("yolo11n-world", nc=3)


def test_set_classes_takes_its_vectors_from_the_bank(world: Any) -> None:
    bank = orthonormal_embeddings(NAMES)
    with text_embedding_patch(bank):
        world.set_classes(NAMES)
    assert world.txt_feats.shape == (1, 3, 512)
    np.testing.assert_array_equal(world.txt_feats[0].numpy(), bank.of(NAMES))


def test_the_trainer_takes_its_vectors_from_the_bank(world: Any, tmp_path: Any) -> None:
    from ultralytics.models.yolo.world import WorldTrainer

    trainer = WorldTrainer.__new__(WorldTrainer)  # what a trainer needs to ask, and no more
    trainer.model, trainer.device = world, torch.device("cpu")
    bank = orthonormal_embeddings(NAMES)
    with text_embedding_patch(bank):
        found = trainer.generate_text_embeddings(NAMES, batch=2, cache_dir=tmp_path)
    assert list(found) == NAMES
    np.testing.assert_array_equal(torch.stack(list(found.values())).numpy(), bank.of(NAMES))


def test_the_averaged_model_is_given_its_classes_before_training() -> None:
    ultralytics_env.prepare()
    from ultralytics.models.yolo.world.train import on_pretrain_routine_end

    given: list[str] = []
    data = SimpleNamespace(data={"names": dict(enumerate(NAMES))})
    on_pretrain_routine_end(
        SimpleNamespace(
            test_loader=SimpleNamespace(dataset=data),
            ema=SimpleNamespace(ema=SimpleNamespace(set_classes=given.extend)),
        )
    )
    assert given == NAMES


def test_an_unknown_class_is_named(world: Any) -> None:
    with (
        text_embedding_patch(orthonormal_embeddings(NAMES)),
        pytest.raises(ConfigError, match="'dent'"),
    ):
        world.set_classes(["dent"])


def test_without_the_bank_it_would_ask_for_clip(world: Any) -> None:
    with pytest.raises(AssertionError, match="asked for CLIP"):
        world.set_classes(NAMES)


def test_the_original_comes_back(no_clip: None) -> None:
    from ultralytics.nn.tasks import WorldModel

    original = WorldModel.get_text_pe

    def fail_inside() -> None:
        with text_embedding_patch(orthonormal_embeddings(NAMES)):
            assert WorldModel.get_text_pe is not original
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert WorldModel.get_text_pe is original


def test_a_moved_seam_is_an_error(no_clip: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.nn.tasks import WorldModel

    monkeypatch.setattr(WorldModel, "get_text_pe", lambda self, texts: None)
    with (
        pytest.raises(ToolkitError, match="unknown way"),
        text_embedding_patch(orthonormal_embeddings(NAMES)),
    ):
        pass
