from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Sample
from toolkit.inference import engines
from toolkit.methods.sam.embeddings import (
    EmbeddingCache,
    ViewEmbeddings,
    thread_count,
    thread_pool,
    training_cache,
)
from toolkit.methods.sam.encoder import Encoder, encoder_graph, fuse_encoder
from toolkit.methods.sam.tta import View
from toolkit.runtime.segmentation import sam_input


class _Encoder(nn.Module):
    """A stand-in: pools the picture to the size of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        grey = nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 64) * self.gain
        assert x.shape[-2:] == (1024, 1024)
        return grey.expand(-1, 256, -1, -1)


class _Sam(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = _Encoder()
        self.device = torch.device("cpu")
        self.pixel_mean, self.pixel_std = torch.tensor(0.0), torch.tensor(255.0)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    path = tmp_path / "image.png"
    picture = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    cv2.imwrite(str(path), picture)
    return Sample(id="image.png", image=path, label="good")


def test_an_image_is_encoded_once_per_view(sample: Sample, tmp_path: Path) -> None:
    sam = _Sam()
    first = EmbeddingCache(sam, "e", tmp_path / "cache")
    one, two = first.get(sample), first.get(sample, View(1))
    assert sam.image_encoder.calls == 2
    assert not torch.equal(one, two)
    again = EmbeddingCache(sam, "e", tmp_path / "cache")  # another run
    assert torch.equal(again.get(sample), one)
    assert sam.image_encoder.calls == 2
    assert one.dtype == torch.float16


@pytest.mark.parametrize("left", [0, 1, 128, 1000])  # nothing, no header, no numbers, some
def test_a_file_cut_short_is_made_anew_and_named(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: int
) -> None:
    sam = _Sam()
    cache = EmbeddingCache(sam, "e", tmp_path / "cache")
    whole = cache.get(sample)
    (path,) = cache._arrays.folder.glob("*.npy")
    path.write_bytes(path.read_bytes()[:left])
    assert torch.equal(cache.get(sample), whole)
    assert cache._arrays.rebuilt == [path]
    assert f"{path}: damaged; computing it again" in capsys.readouterr().err
    assert torch.equal(EmbeddingCache(sam, "e", tmp_path / "cache").get(sample), whole)


def test_another_encoder_has_another_folder(sample: Sample, tmp_path: Path) -> None:
    EmbeddingCache(_Sam(), "e", tmp_path).get(sample)
    sam = _Sam()
    EmbeddingCache(sam, "other", tmp_path).get(sample)
    assert sam.image_encoder.calls == 1


def test_equal_pixels_have_one_embedding_in_whatever_file(sample: Sample, tmp_path: Path) -> None:
    sam = _Sam()
    cache = EmbeddingCache(sam, "e", tmp_path / "cache")
    copy = tmp_path / "copy.bmp"
    cv2.imwrite(str(copy), cv2.imread(str(sample.image)))
    assert torch.equal(
        cache.get(sample), cache.get(Sample(id="copy.bmp", image=copy, label="good"))
    )
    assert sam.image_encoder.calls == 1


def test_the_input_is_that_of_meta(small_sam) -> None:
    from segment_anything.utils.transforms import ResizeLongestSide

    from toolkit.methods.sam import encoder

    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    resized = torch.from_numpy(ResizeLongestSide(1024).apply_image(image)).permute(2, 0, 1)
    seen = []

    class Recorder:
        pixel_mean, pixel_std = small_sam.pixel_mean, small_sam.pixel_std

        def image_encoder(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    encoder._from_input(Recorder(), torch.from_numpy(sam_input(image)))  # type: ignore[arg-type]
    torch.testing.assert_close(seen[0][0], small_sam.preprocess(resized.float()))


@pytest.mark.slow
def test_a_training_encodes_in_an_engine_that_keeps_the_masks(
    small_sam, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    monkeypatch.setattr(engines, "variants", lambda _: ["openvino float32"])  # of any processor
    cache = training_cache(small_sam, "e", [sample])
    assert cache.engine == "openvino float32"
    plain = EmbeddingCache(small_sam, "e")
    assert plain._arrays.folder != cache._arrays.folder  # engines do not mix
    both = [one.get(sample).float() for one in (cache, plain)]
    assert float((both[0] - both[1]).norm() / both[1].norm()) < 0.03
    again = training_cache(small_sam, "e", [sample])
    again._arrays.path(next(again._arrays.folder.glob("*.npy")).stem).unlink()
    assert torch.equal(again.get(sample).float(), both[0])  # the same bits


def test_without_samples_the_distance_is_that_of_masks(small_sam) -> None:
    shared = encoder_graph(small_sam, "e").shared
    assert shared is not None
    assert len(shared.inputs()) == 2
    one, other = torch.randn(2, 1, 256, 64, 64, generator=torch.manual_seed(0)).numpy()
    assert shared.distance([[one]], [[one]]) == 0
    assert shared.distance([[one]], [[other]]) > shared.tolerance


def test_with_samples_it_is_what_the_masks_lose_against_the_truth(
    small_sam, sample_dir: Path
) -> None:
    defects = [s for s in load_dataset(sample_dir).samples if s.is_defect]
    shared = encoder_graph(small_sam, "e", lambda: defects).shared
    assert shared is not None
    inputs = shared.inputs()
    assert len(inputs) == 4
    drawn = torch.randn(2, 4, 1, 256, 64, 64, generator=torch.manual_seed(0)).numpy()
    ones, others = ([[one] for one in outputs] for outputs in drawn)
    lost = shared.distance(ones, others)
    assert lost == pytest.approx(-shared.distance(others, ones))
    assert lost != 0
    assert shared.distance(ones, ones) == 0


def test_fill_computes_only_what_is_missing(sample: Sample, tmp_path: Path) -> None:
    cache = EmbeddingCache(_Sam(), "e", tmp_path / "cache")
    three = [(sample, View(view)) for view in range(3)]
    assert cache.fill(three, show=False) == 3
    assert cache.fill([*three, *three, (sample, View(0, (0, 0, 20, 20)))], show=False) == 1


def test_a_crop_has_a_key_of_its_own_and_shows_its_part_only(
    sample: Sample, tmp_path: Path
) -> None:
    cache = EmbeddingCache(_Sam(), "e", tmp_path / "cache")
    views = [
        View(), View(1), View(0, (0, 0, 20, 20)), View(1, (0, 0, 20, 20)),
        View(0, (20, 0, 40, 20)), View(0, (0, 0, 40, 40)),
    ]  # fmt: skip
    made = [cache.get(sample, view) for view in views]
    assert len(list(cache._arrays.folder.glob("*.npy"))) == len(views)
    assert len({tensor.numpy().tobytes() for tensor in made}) == len(views)
    image = read_rgb(sample.image)
    part = Encoder(_Sam())(np.ascontiguousarray(image[0:20, 20:40]))
    assert torch.equal(made[4], part)


def test_one_image_in_memory_encodes_each_view_once(sample: Sample) -> None:
    sam = _Sam()
    embedding_of = ViewEmbeddings(Encoder(sam), read_rgb(sample.image))
    assert torch.equal(embedding_of(View(3)), embedding_of(View(3)))
    assert sam.image_encoder.calls == 1


class _Pair(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(5)
        nn.init.uniform_(self.bn.weight, 0.5, 2.0)
        nn.init.normal_(self.bn.bias)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2.0)


class _Network(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = encoder
        self.mask_decoder = nn.Linear(2, 2)


def test_without_its_batch_norms_the_encoder_computes_the_same() -> None:
    torch.manual_seed(0)
    sam = _Network(nn.Sequential(_Pair(), nn.GELU())).eval()
    names = set(sam.state_dict())
    fused = fuse_encoder(sam)
    picture = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        fused.image_encoder(picture), sam.image_encoder(picture), rtol=1e-5, atol=1e-5
    )
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert fused.mask_decoder is sam.mask_decoder
    assert set(sam.state_dict()) == names  # what is saved and exported keeps SAM's names


def test_mobile_sam_encodes_the_same(small_sam) -> None:
    torch.manual_seed(0)
    small_sam.image_encoder.eval()  # makes the biases anew, of which other tests may have left none
    block = small_sam.image_encoder.layers[1].blocks[0]
    fused = fuse_encoder(small_sam).image_encoder.layers[1].blocks[0]
    assert type(fused.attn) is not type(block.attn)
    tokens = torch.randn(3, 49, 128)
    biases = torch.randn_like(block.attn.ab)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for attention in (block.attn, fused.attn.original):
            patch.setattr(attention, "ab", biases)
        torch.testing.assert_close(fused.attn(tokens), block.attn(tokens), rtol=1e-4, atol=1e-5)


def test_an_encoder_without_batch_norms_is_used_as_it_is() -> None:
    sam = _Network(nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU()))
    assert fuse_encoder(sam) is sam


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "count", "share"),
    [
        (4, 2, 2),
        (2, 2, 1),
        (1, 1, 1),
        (2, 1, 2),  # one has all
        (1, 3, 1),  # more than torch has: each has one
    ],
)
def test_each_thread_has_its_share_of_the_threads(threads: int, count: int, share: int) -> None:
    torch.set_num_threads(threads)
    with thread_pool(count) as pool:
        assert torch.get_num_threads() == share
        assert {pool.submit(torch.get_num_threads).result() for _ in range(count)} == {share}
    assert torch.get_num_threads() == threads


def test_threads_work_side_by_side() -> None:
    barrier = threading.Barrier(2, timeout=20)  # breaks unless both are there at once
    with thread_pool(2) as pool:
        assert sorted(pool.map(lambda _: barrier.wait(), range(2))) == [0, 1]


def test_after_an_error_nothing_more_is_begun() -> None:
    torch.set_num_threads(1)
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    def interrupted() -> None:
        with thread_pool(1) as pool:
            for number in range(50):
                pool.submit(work, number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 10
    assert torch.get_num_threads() == 1


def test_only_a_processor_is_shared() -> None:
    torch.set_num_threads(3)
    assert thread_count(torch.device("cpu")) == 3
    assert thread_count(torch.device("cuda")) == 1
