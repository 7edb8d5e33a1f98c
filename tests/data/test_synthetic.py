"""The synthetic sample: exact masks, equal bytes, all or nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.data.synthetic import DEFECT_TYPES, default_sample, make_sample
from toolkit.data.synthetic import sample as sample_module
from toolkit.data.synthetic.camera import photograph
from toolkit.errors import ConfigError, DataError

SMALL = {"size": 64, "train_good": 2, "test_good": 1, "per_defect": 2}


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("seed", range(4))
def test_mask_is_the_set_of_changed_pixels(defect_type: str, size: int, seed: int) -> None:
    shot = photograph(np.random.default_rng(seed), size=size, defect_type=defect_type)
    changed = (shot.image != shot.clean).any(axis=2)
    assert changed.any()
    assert np.array_equal(shot.mask, np.where(changed, 255, 0))


@pytest.mark.parametrize("defect_type", DEFECT_TYPES)
def test_defect_lies_on_the_same_bottle_as_its_clean_twin(defect_type: str) -> None:
    shot = photograph(np.random.default_rng(5), size=128, defect_type=defect_type)
    good = photograph(np.random.default_rng(5), size=128)
    assert np.array_equal(shot.clean, good.image)
    assert not good.mask.any()


@pytest.mark.parametrize(
    ("defect_type", "low", "high"),
    [
        # the range of the real bottle, in per cent of the image, with some room
        ("broken_large", 3.0, 28.0),
        ("broken_small", 0.4, 9.0),
        ("contamination", 0.3, 20.0),
    ],
)
def test_defect_areas_are_like_those_of_the_real_bottle(
    defect_type: str, low: float, high: float
) -> None:
    areas = [
        100
        * (photograph(np.random.default_rng(s), size=64, defect_type=defect_type).mask > 0).mean()
        for s in range(40)
    ]
    assert low <= min(areas)
    assert max(areas) <= high
    assert np.std(areas) > 0.1 * np.mean(areas)


def test_some_masks_have_holes_and_some_have_several_regions() -> None:
    holes = several = 0
    for seed in range(30):
        mask = photograph(np.random.default_rng(seed), size=128, defect_type="contamination").mask
        _, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        outer = hierarchy[0, :, 3] < 0
        holes += int((~outer).any())
        several += int(outer.sum() > 1)
    assert holes >= 2
    assert several >= 2


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first = _digests(make_sample(tmp_path / "a", seed=1, **SMALL))
    again = _digests(make_sample(tmp_path / "b", seed=1, **SMALL))
    other = _digests(make_sample(tmp_path / "c", seed=2, **SMALL))
    assert first == again
    pictures = [name for name in first if name.endswith(".png") and "ground_truth" not in name]
    assert all(first[name] != other[name] for name in pictures)
    assert len({first[name] for name in pictures}) == len(pictures)  # no image twice


def test_a_larger_sample_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small = _digests(make_sample(tmp_path / "small", **SMALL))
    large = _digests(make_sample(tmp_path / "large", **{**SMALL, "train_good": 4, "per_defect": 3}))
    del small["sample.json"]
    assert small.items() <= large.items()


def test_layout_and_mask_values(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = make_sample(
        tmp_path / "new" / "sample",
        **SMALL,
        progress=lambda done, total: seen.append((done, total)),
    )
    expected = {"sample.json", "train/good/000.png", "train/good/001.png", "test/good/000.png"}
    for defect_type in DEFECT_TYPES:
        for index in range(2):
            expected.add(f"test/{defect_type}/{index:03d}.png")
            expected.add(f"ground_truth/{defect_type}/{index:03d}_mask.png")
    assert set(_digests(out)) == expected
    assert seen == [(done, 9) for done in range(1, 10)]
    for path in out.rglob("*_mask.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}
    assert cv2.imread(str(out / "test/good/000.png"), cv2.IMREAD_UNCHANGED).shape == (64, 64, 3)
    assert [path.name for path in out.parent.iterdir()] == ["sample"]  # no temporary folder left


def test_a_sample_with_the_same_settings_is_reused(tmp_path: Path) -> None:
    out = make_sample(tmp_path / "sample", **SMALL)
    before = (out / "train/good/000.png").stat().st_mtime_ns
    assert make_sample(out, **SMALL) == out
    assert (out / "train/good/000.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        # a sample of another seed
        ({"seed": 9, "size": 64}, "seed 9, not 0"),
        # settings that are no mapping
        ([1, 2], "unreadable settings"),
        # someone's own folder
        (None, "is no synthetic sample"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, content: object, reason: str
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "keep.txt").write_text("precious")
    if content is not None:
        (out / "sample.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=reason) as caught:
        make_sample(out, **SMALL)
    assert str(out) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (out / "keep.txt").read_text() == "precious"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert (make_sample(tmp_path / "empty", **SMALL) / "sample.json").is_file()


def test_a_file_in_the_way_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="no synthetic sample"):
        make_sample(tmp_path / "file", **SMALL)
    with pytest.raises(DataError, match="cannot write the sample"):
        make_sample(tmp_path / "file" / "sample", **SMALL)


def test_nothing_is_left_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left"):
        make_sample(tmp_path / "sample", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_faster_process_with_the_same_settings_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sample"
    write = sample_module._write

    def write_while_another_finishes(*arguments: object) -> None:
        write(*arguments)
        monkeypatch.setattr(sample_module, "_write", write)
        make_sample(out, **SMALL)

    monkeypatch.setattr(sample_module, "_write", write_while_another_finishes)
    assert make_sample(out, **SMALL) == out
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize(
    "wrong",
    [{"size": 63}, {"train_good": -1}, {"seed": -1}],  # below the floor, impossible, no valid seed
)
def test_numbers_out_of_range(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_sample(tmp_path / "sample", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_default_sample_lies_among_the_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    existing = make_sample(tmp_path / "datasets" / "sample")
    assert default_sample() == existing
    assert len(list((existing / "train" / "good").iterdir())) == 40
    assert len(list((existing / "test").rglob("*.png"))) == 42


def test_the_sample_is_not_trivial(tmp_path: Path) -> None:
    """Pose and light must hide the defects from a plain difference to the mean image."""

    def pictures(salt: int, count: int, defect_type: str | None) -> np.ndarray:
        shots = [
            photograph(np.random.default_rng([salt, i]), size=64, defect_type=defect_type).image
            for i in range(count)
        ]
        return np.stack(shots).astype(np.float32)

    mean = pictures(0, 40, None).mean(axis=0)
    good = np.abs(pictures(1, 30, None) - mean).mean(axis=(1, 2, 3))
    bad = np.concatenate(
        [
            np.abs(pictures(2 + n, 10, t) - mean).mean(axis=(1, 2, 3))
            for n, t in enumerate(DEFECT_TYPES)
        ]
    )
    auroc = (bad[:, None] > good[None]).mean()
    assert 0.3 < auroc < 0.8
