"""Which weights are taken, which are refused, and in how many words."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry

from toolkit.errors import WeightsError
from toolkit.methods.sam import model
from toolkit.methods.sam.model import (
    _build,
    copy_decoder,
    load_decoder,
    save_decoder,
    start_model,
)
from toolkit.methods.sam.settings import SamSettings
from toolkit.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", method="sam", settings={}, split={}, data={}, name="x")


@pytest.fixture
def vit_b(small_vit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sam_model_registry, "vit_b", small_vit)
    return small_vit


def _refused(settings: SamSettings, run: Run) -> str:
    with pytest.raises(WeightsError) as caught:
        start_model(settings, run)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_vit_is_built_by_metas_package_from_a_file(vit_b, run: Run, tmp_path: Path) -> None:
    source = vit_b()
    torch.save(source.state_dict(), tmp_path / "sam_b.pth")
    sam = start_model(SamSettings(model="sam-vit-b", weights=str(tmp_path / "sam_b.pth")), run)
    assert all(
        torch.equal(a, b) for a, b in zip(source.parameters(), sam.parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in sam.parameters())
    assert not sam.training
    assert run.metadata["weights"] == "sam_b.pth"


def test_a_checkpoint_of_another_architecture_is_one_line(
    vit_b, small_sam, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "mobile.pt"
    torch.save(small_sam.state_dict(), path)
    message = _refused(SamSettings(model="sam-vit-b", weights=str(path)), run)
    assert message == f"{path}: not the weights of sam-vit-b; choose another FILE or --model"
    torch.save(vit_b().state_dict(), path)
    assert "not the weights of mobile-sam" in _refused(SamSettings(weights=str(path)), run)


_WIDTHS = {"sam-vit-b": 768, "sam-vit-l": 1024, "sam-vit-h": 1280}


@pytest.fixture(scope="module")
def official_shapes() -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of Meta's three models at full size, without their numbers (2.4 GB for vit_h)."""
    with torch.device("meta"):
        return {
            f"sam-{name.replace('_', '-')}": sam_model_registry[name]().state_dict()
            for name in ("vit_b", "vit_l", "vit_h")
        }


@pytest.mark.parametrize("name", _WIDTHS)
@pytest.mark.parametrize("of", _WIDTHS)
def test_each_of_metas_architectures_takes_its_own_shapes_and_no_others(
    official_shapes, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, of: str
) -> None:
    path = tmp_path / f"{of}.pth"
    path.touch()
    monkeypatch.setattr(model, "_read_checkpoint", lambda path: official_shapes[of])
    settings = SamSettings(model=name, weights=str(path))  # type: ignore[arg-type]
    with torch.device("meta"):
        if name != of:
            assert f"not the weights of {name}" in _refused(settings, run)
            return
        sam = _build(name, path)
    assert sam.image_encoder.pos_embed.shape == (1, 64, 64, _WIDTHS[name])
    embedding = sam.image_encoder(torch.zeros(1, 3, 1024, 1024, device="meta"))
    assert embedding.shape == (1, 256, 64, 64)


class _Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran-code"),))


def test_a_pickle_with_code_is_refused_and_does_not_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"image_encoder.weight": _Code()}, path)
    message = _refused(SamSettings(weights=str(path)), run)
    assert "can run code" in message
    assert "--trust" not in message
    path.write_bytes(pickle.dumps(_Code()))
    assert str(path) in _refused(SamSettings(weights=str(path)), run)
    assert not Path("ran-code").exists()


def test_a_checkpoint_cut_short_is_one_line(small_sam, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:700])
    assert "not a readable checkpoint" in _refused(SamSettings(weights=str(path)), run)


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_tuned_decoder_that_cannot_be_used(small_sam, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "decoder.safetensors"
    if damage == "cut":
        save_decoder(small_sam, path)
        path.write_bytes(path.read_bytes()[:5000])
    if damage == "other":
        save_file({"mask_decoder.iou_token.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(WeightsError, match=r"decoder\.safetensors") as caught:
        load_decoder(copy_decoder(small_sam), path)
    assert "\n" not in str(caught.value)


def test_a_tuned_decoder_comes_back(small_sam, tmp_path: Path) -> None:
    tuned = copy_decoder(small_sam)
    with torch.no_grad():
        tuned.mask_decoder.mask_tokens.weight += 1
    save_decoder(tuned, tmp_path / "d.safetensors")
    other = copy_decoder(small_sam)
    load_decoder(other, tmp_path / "d.safetensors")
    assert torch.equal(other.mask_decoder.mask_tokens.weight, tuned.mask_decoder.mask_tokens.weight)
    assert not torch.equal(
        small_sam.mask_decoder.mask_tokens.weight, tuned.mask_decoder.mask_tokens.weight
    )


@pytest.mark.parametrize("damage", ["text", "nan"])
def test_a_file_that_only_ends_like_safetensors_is_one_line(
    small_sam, run: Run, tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "sam.safetensors"
    if damage == "text":
        path.write_text("no tensors")
        expected = "cannot be read as safetensors"
    else:
        save_file({"mask_decoder.iou_token.weight": torch.full((1, 256), float("nan"))}, path)
        expected = "not finite"
    assert expected in _refused(SamSettings(weights=str(path)), run)


def test_safetensors_are_weights(small_sam, run: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "sam.safetensors"
    save_file({k: v.contiguous() for k, v in small_sam.state_dict().items()}, path)
    sam = start_model(SamSettings(weights=str(path)), run)
    assert torch.equal(sam.mask_decoder.iou_token.weight, small_sam.mask_decoder.iou_token.weight)
