"""Sample and Dataset: nothing is opened before it is needed, equal data has equal fingerprints."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset, Sample, file_sha256
from toolkit.errors import DataError


def sample(name: str, label: str = "good", **more: object) -> Sample:
    return Sample(id=name, image=Path("/nowhere") / name, label=label, **more)  # type: ignore[arg-type]


def test_a_dataset_opens_no_file() -> None:
    samples = (sample("a.png"), sample("b.png", "scratch"), sample("c.png", "dent"))
    dataset = Dataset(name="d", root=Path("/nowhere"), samples=samples)
    assert len(dataset) == 3
    assert list(dataset) == list(samples)
    assert dataset.classes == ("dent", "scratch")
    assert dataset.by_id["b.png"] is samples[1]
    assert [s.is_defect for s in dataset] == [False, True, True]


def test_both_types_are_immutable() -> None:
    one = sample("a.png")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.label = "dent"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dataset(name="d", root=Path(), samples=(one,)).name = "e"  # type: ignore[misc]


def test_a_dataset_of_good_images_has_no_classes() -> None:
    assert Dataset(name="d", root=Path(), samples=(sample("a.png"),)).classes == ()
    assert Dataset(name="d", root=Path(), samples=()).classes == ()


@given(content=st.binary(max_size=3000))
def test_file_hash_is_that_of_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_file_hash_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    content = bytes(range(256)) * 12_345
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    for path in (tmp_path / "gone.png", tmp_path / "link.png", tmp_path):
        with pytest.raises(DataError, match="cannot be read") as caught:
            file_sha256(path)
        assert str(path) in str(caught.value)


def test_content_is_by_sample(sample_dir: Path) -> None:
    dataset = load_dataset(sample_dir)
    assert set(dataset.content) == {s.id for s in dataset}
    assert dataset.content[dataset.samples[0].id] == file_sha256(dataset.samples[0].image)


def test_fingerprint_is_stable_and_does_not_depend_on_the_place(
    sample_dir: Path, tmp_path: Path
) -> None:
    first = load_dataset(sample_dir).fingerprint
    assert load_dataset(sample_dir).fingerprint == first
    copy = shutil.copytree(sample_dir, tmp_path / "elsewhere")
    assert load_dataset(copy).fingerprint == first


@pytest.mark.parametrize(
    "change",
    [
        # one bit of an image
        lambda d: _flip(next((d / "train/good").glob("*.png"))),
        # one bit of a mask
        lambda d: _flip(next((d / "ground_truth/broken_small").glob("*.png"))),
        # an image less
        lambda d: next((d / "test/good").glob("*.png")).unlink(),
        # a mask less
        lambda d: next((d / "ground_truth/broken_small").glob("*.png")).unlink(),
        # another name
        lambda d: (d / "train/good/000.png").rename(d / "train/good/zzz.png"),
        # another label
        lambda d: (d / "test/broken_small").rename(d / "test/scratch"),
        # two images exchanged
        lambda d: _exchange(d / "train/good/000.png", d / "train/good/001.png"),
    ],
)
def test_fingerprint_sees(change: object, sample_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sample_dir, tmp_path / "copy")
    before = load_dataset(copy).fingerprint
    change(copy)  # type: ignore[operator]
    assert load_dataset(copy).fingerprint != before


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _exchange(first: Path, second: Path) -> None:
    other = first.with_name("other")
    first.rename(other)
    second.rename(first)
    other.rename(second)
