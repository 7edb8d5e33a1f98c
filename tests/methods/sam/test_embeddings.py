from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.methods.sam.embeddings import EmbeddingCache, ImageEmbeddings, encoder_hash
from toolkit.methods.sam.frames import Frame


class _Encoder(nn.Module):
    """A stand-in: pools the picture to the size of an embedding."""

    img_size = 64

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        grey = nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 64) * self.gain
        return grey.expand(-1, 256, -1, -1)


class _Sam(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = _Encoder()
        self.device = torch.device("cpu")

    def preprocess(self, x: torch.Tensor) -> torch.Tensor:
        return x / 255


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    path = tmp_path / "image.png"
    picture = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    cv2.imwrite(str(path), picture)
    return Sample(id="image.png", image=path, label="good")


def test_an_image_is_encoded_once_per_frame(sample: Sample, tmp_path: Path) -> None:
    sam = _Sam()
    first = EmbeddingCache(sam, tmp_path / "cache")
    one, two = first.get(sample), first.get(sample, Frame(1))
    assert sam.image_encoder.calls == 2
    assert not torch.equal(one, two)
    again = EmbeddingCache(sam, tmp_path / "cache")  # another run
    assert torch.equal(again.get(sample), one)
    assert sam.image_encoder.calls == 2
    assert one.dtype == torch.float16


@pytest.mark.parametrize("left", [0, 1, 128, 1000])  # nothing, no header, no numbers, some
def test_a_file_cut_short_is_made_anew_and_named(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: int
) -> None:
    sam = _Sam()
    cache = EmbeddingCache(sam, tmp_path / "cache")
    whole = cache.get(sample)
    (path,) = cache.folder.glob("*.npy")
    path.write_bytes(path.read_bytes()[:left])
    assert torch.equal(cache.get(sample), whole)
    assert cache.rebuilt == [path]
    assert f"{path}: cut short or damaged; computing it again" in capsys.readouterr().err
    assert torch.equal(EmbeddingCache(sam, tmp_path / "cache").get(sample), whole)


def test_other_weights_have_another_folder(tmp_path: Path) -> None:
    one, other = _Sam(), _Sam()
    other.image_encoder.gain.data *= 2
    assert encoder_hash(one) != encoder_hash(other)
    assert encoder_hash(one) == encoder_hash(_Sam())


def test_fill_computes_only_what_is_missing(sample: Sample, tmp_path: Path) -> None:
    cache = EmbeddingCache(_Sam(), tmp_path / "cache")
    three = [(sample, Frame(view)) for view in range(3)]
    assert cache.fill(three, show=False) == 3
    assert cache.fill([*three, *three, (sample, Frame(0, (0, 0, 20, 20)))], show=False) == 1


def test_a_window_has_a_key_of_its_own_and_shows_its_part_only(
    sample: Sample, tmp_path: Path
) -> None:
    cache = EmbeddingCache(_Sam(), tmp_path / "cache")
    frames = [
        Frame(), Frame(1), Frame(0, (0, 0, 20, 20)), Frame(1, (0, 0, 20, 20)),
        Frame(0, (20, 0, 40, 20)), Frame(0, (0, 0, 40, 40)),
    ]  # fmt: skip
    made = [cache.get(sample, frame) for frame in frames]
    assert len(list(cache.folder.glob("*.npy"))) == len(frames)
    assert len({tensor.numpy().tobytes() for tensor in made}) == len(frames)
    image = read_rgb(sample.image)
    part = ImageEmbeddings(_Sam(), np.ascontiguousarray(image[0:20, 20:40]))(Frame())
    assert torch.equal(made[4], part.half())


def test_one_image_in_memory_encodes_each_frame_once(sample: Sample) -> None:
    sam = _Sam()
    shown = ImageEmbeddings(sam, read_rgb(sample.image))
    assert torch.equal(shown(Frame(3)), shown(Frame(3)))
    assert sam.image_encoder.calls == 1
