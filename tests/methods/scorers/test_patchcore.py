"""PatchCore end to end on the synthetic sample, with random weights."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tests.runtime.parity import check_onnx
from toolkit.config import build_settings, find_config, read_yaml, settings_dict
from toolkit.data.images import image_size, read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.data.types import Sample, file_sha256
from toolkit.errors import ConfigError, DataError, RunError, WeightsError
from toolkit.files import read_json, write_json
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.registry import method_class
from toolkit.methods.scorers import patchcore as module
from toolkit.methods.scorers.depths import DepthBanks, rows_of
from toolkit.methods.scorers.patchcore import PatchCore, PatchCoreSettings
from toolkit.prediction import Prediction
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run

pytestmark = pytest.mark.slow

SMALL = PatchCoreSettings(
    weights="none", image_size=64, coreset_size=100, coreset_sampling_ratio=1.0
)


@pytest.fixture(scope="module")
def split(sample_dir: Path) -> Split:
    dataset = load_dataset(sample_dir)
    return make_plan(dataset, protocol="official").fold(dataset, 0)


def _run(folder: Path, settings: PatchCoreSettings) -> Run:
    return Run.create(
        folder, method="patchcore", settings=settings_dict(settings), split={}, data={}
    )


def _fit_predict(
    folder: Path, split: Split, settings: PatchCoreSettings
) -> tuple[Run, list[Prediction]]:
    seed_everything(0)
    run = _run(folder, settings)
    PatchCore(settings).fit(split, run)
    # A second object: only what lies in the run may be used.
    return run, list(predict_samples(PatchCore(settings).load(run), split.test))


def test_registry_and_shipped_config_agree(real_home: Path) -> None:
    values = read_yaml(find_config("patchcore/default"))
    assert values.pop("method") == "patchcore"
    settings = build_settings(PatchCore.Settings, values, source="default.yaml")
    assert settings == PatchCoreSettings()
    assert method_class("patchcore") is PatchCore


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_score": "top_1_percent"},
        {"coreset": "exact", "projection_dim": 0, "num_neighbors": 3},
        {"whitening": None, "image_score": "max"},
        {"max_patches": 150},  # fewer than the images have: a reservoir
        {"backbone": "resnet18"},  # torchvision, layers by name
        {"backbone": "resnet18", "layers": ("layer1",), "patch_size": 1},
    ],
)
def test_fit_then_predict(tmp_path: Path, split: Split, changes: dict[str, Any]) -> None:
    settings = dataclasses.replace(SMALL, **changes)
    run, predictions = _fit_predict(tmp_path, split, settings)
    assert [p.sample_id for p in predictions] == [s.id for s in split.test]
    for prediction in predictions:
        assert prediction.anomaly_map is not None
        assert prediction.anomaly_map.shape == (64, 64)
        assert prediction.anomaly_map.dtype == np.float32
        assert np.isfinite(prediction.anomaly_map).all()
        assert np.isfinite(prediction.score)
    assert run.metadata["weights"] == "none"
    assert run.metadata["parameters"] > 1e4
    one_depth = changes.get("layers") == ("layer1",)
    assert run.metadata["patches_in_bank"] == (100 if one_depth else 50)  # half in shallow ones
    assert sorted(f.name for f in run.weights.iterdir()) == [
        "images.json",
        "model.json",
        "model.safetensors",
    ]


def test_same_seed_same_predictions(tmp_path: Path, split: Split) -> None:
    _, first = _fit_predict(tmp_path / "a", split, SMALL)
    _, second = _fit_predict(tmp_path / "b", split, SMALL)
    assert [p.score for p in first] == [p.score for p in second]


def test_the_whole_bank_holds_the_patches_of_training_images(tmp_path: Path, split: Split) -> None:
    settings = dataclasses.replace(
        SMALL, coreset_size=10**6, whitening=None, pca_dim=0, position="off"
    )
    run = _run(tmp_path, settings)
    PatchCore(settings).fit(split, run)
    predictor = PatchCore(settings).load(run)
    banks = predictor.head
    assert isinstance(banks, DepthBanks)

    def furthest(sample: Sample) -> float:
        grids = banks.grids(predictor.extractor(read_rgb(sample.image)))
        return max(
            float(one.bank.nearest(rows_of(grid))[0].max())
            for one, grid in zip(banks.depths, grids, strict=True)
        )

    assert split.test[0].is_defect
    # The bank was held in half precision.
    assert all(furthest(s) < 0.02 * furthest(split.test[0]) for s in split.train[:2])


def test_defects_among_training_images_are_left_out(tmp_path: Path, split: Split) -> None:
    defects = tuple(s for s in split.test if s.is_defect)
    mixed = dataclasses.replace(split, train=split.train + defects)
    clean, mixed_run = _run(tmp_path / "a", SMALL), _run(tmp_path / "b", SMALL)
    PatchCore(SMALL).fit(split, clean)
    PatchCore(SMALL).fit(mixed, mixed_run)
    assert clean.metadata["patches_seen"] == mixed_run.metadata["patches_seen"]


def test_images_of_another_size_and_aspect(tmp_path: Path, split: Split) -> None:
    import cv2

    run, _ = _fit_predict(tmp_path, split, SMALL)
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), np.zeros((50, 300, 3), np.uint8))
    assert image_size(path)[:2] == (300, 50)
    sample = Sample(id="wide.png", image=path, label="good")
    (prediction,) = predict_samples(PatchCore(SMALL).load(run), [sample])
    assert prediction.anomaly_map is not None
    assert prediction.anomaly_map.shape == (64, 64)


def test_constant_images(tmp_path: Path, split: Split) -> None:
    import cv2

    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((64, 64, 3), 128, np.uint8))
    grey = tuple(Sample(id=f"{i}.png", image=path, label="good", part="train") for i in range(3))
    run, predictions = _fit_predict(
        tmp_path / "runs", dataclasses.replace(split, train=grey), SMALL
    )
    assert run.metadata["patches_in_bank"] == 50
    assert all(np.isfinite(p.score) for p in predictions)


def test_no_good_images(tmp_path: Path, split: Split) -> None:
    only_defects = dataclasses.replace(split, train=tuple(s for s in split.test if s.is_defect))
    with pytest.raises(DataError, match="no good images"):
        PatchCore(SMALL).fit(only_defects, _run(tmp_path, SMALL))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"coreset_sampling_ratio": 0.0001}, DataError, "coreset of 0"),
        ({"backbone": "resnet81"}, ConfigError, "did you mean"),
        ({"layers": ("blocks.99",)}, ConfigError, "blocks.99"),
        ({"layers": ("act",)}, ConfigError, "act"),
        ({"patch_size": 2}, ConfigError, "odd"),
        ({"weights": "/nowhere/lite0.pth"}, WeightsError, "/nowhere/lite0.pth"),
    ],
)
def test_bad_settings(
    tmp_path: Path, split: Split, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    settings = dataclasses.replace(SMALL, **changes)
    with pytest.raises(error, match=words):
        PatchCore(settings).fit(split, _run(tmp_path, settings))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_patches", 0),
        ("coreset_size", 0),
        ("coreset_sampling_ratio", 0.0),
        ("coreset_sampling_ratio", 1.5),
        ("num_neighbors", 0),  # whose mean distance would be no number
        ("projection_dim", -1),
        ("image_size", 0),
        ("patch_size", 0),
        ("feature_stride", -1),
        ("sigma", -1.0),
        ("target_fpr", 1.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"test: {key}={value}: must be "):
        build_settings(PatchCoreSettings, {key: value}, source="test")


def test_the_log_tells_what_the_bank_holds(tmp_path: Path, split: Split) -> None:
    for size, told in ((100, False), (10**6, True)):
        settings = dataclasses.replace(SMALL, coreset_size=size, coreset_sampling_ratio=0.9)
        run = _run(tmp_path, settings)
        PatchCore(settings).fit(split, run)
        log = (run.path / "log.txt").read_text()
        held = run.metadata["patches_in_bank"]
        assert (f"bank holds {held} patches, not {size // 2}:" in log) is told
        radius = log.split("largest distance to the coreset ")[1].split(",")[0]
        assert float(radius) == pytest.approx(run.metadata["coreset_radius"], rel=1e-3, abs=1e-4)


def test_an_extended_bank_holds_no_more_than_max_patches(tmp_path: Path, split: Split) -> None:
    whole = dataclasses.replace(SMALL, coreset_size=150, max_patches=150)
    first = _run(tmp_path / "a", whole)
    PatchCore(whole).fit(dataclasses.replace(split, train=split.train[:3]), first)
    held = first.metadata["patches_in_bank"]
    more = dataclasses.replace(whole, base_run=str(first.path), max_patches=held + 20)
    run = _run(tmp_path / "b", more)
    PatchCore(more).fit(split, run)
    assert run.metadata["patches_held"] == held + 20
    full = dataclasses.replace(more, max_patches=held)
    with pytest.raises(ConfigError, match=f"max_patches={held}: .* holds {held} already"):
        PatchCore(full).fit(split, _run(tmp_path / "c", full))


def test_ratio_counts_all_patches_and_not_only_those_held(tmp_path: Path, split: Split) -> None:
    settings = dataclasses.replace(
        SMALL, max_patches=90, coreset_sampling_ratio=0.08, coreset_size=200
    )
    run, _ = _fit_predict(tmp_path / "a", split, settings)
    seen = run.metadata["patches_seen"]
    assert run.metadata["patches_in_bank"] == round(0.08 * seen) > round(0.08 * 90)
    settings = dataclasses.replace(settings, coreset_sampling_ratio=0.5)
    run, _ = _fit_predict(tmp_path / "b", split, settings)
    assert run.metadata["patches_in_bank"] == 90  # all that are held


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet18"},
        {"layers": ("blocks.1", "blocks.2")},
        {"image_size": 96},
        {"patch_size": 1},
        {"feature_stride": 16},
    ],
)
def test_bank_of_another_extractor(tmp_path: Path, split: Split, changes: dict[str, Any]) -> None:
    run, _ = _fit_predict(tmp_path, split, SMALL)
    with pytest.raises(WeightsError, match="was made with"):
        PatchCore(dataclasses.replace(SMALL, **changes)).load(run)


def test_bank_of_other_random_weights(tmp_path: Path, split: Split) -> None:
    run, _ = _fit_predict(tmp_path, split, SMALL)
    run.record["seed"] = 1
    with pytest.raises(WeightsError, match="fingerprint"):
        PatchCore(SMALL).load(run)


def test_many_images_take_no_more_memory_than_few(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("the memory in use is told by Linux only")
    page = os.sysconf("SC_PAGE_SIZE")
    used: list[int] = []
    real = module.patch_features

    def watched(sample: Sample, extractor: FeatureExtractor) -> Tensor:
        used.append(int(status.read_text().split()[1]) * page)
        return real(sample, extractor)

    monkeypatch.setattr(module, "patch_features", watched)
    good = [s for s in split.train if not s.is_defect]
    count = 300
    many = tuple(dataclasses.replace(good[i % len(good)], id=str(i)) for i in range(count))
    settings = dataclasses.replace(SMALL, max_patches=2000)
    run = _run(tmp_path, settings)
    PatchCore(settings).fit(dataclasses.replace(split, train=many), run)
    patches, channels = run.metadata["patches_seen"], 176
    assert patches == count * 64
    # Held, the patches of the last 250 images would take 11 MB.
    held = patches * channels * 4 * 250 // count
    assert max(used[50:]) - used[50] < held / 4


def test_predict_before_fit(tmp_path: Path, split: Split) -> None:
    with pytest.raises(WeightsError, match="no trained patchcore here; train it first"):
        PatchCore(SMALL).load(_run(tmp_path, SMALL))


@pytest.mark.parametrize("whitening", [None, 0.01])
def test_extending_equals_a_fresh_fit_without_coreset(
    tmp_path: Path, split: Split, whitening: float
) -> None:
    whole = dataclasses.replace(
        SMALL,
        coreset_size=10**6,
        coreset_sampling_ratio=1.0,
        whitening=whitening,
        backbone="resnet18",
    )
    half = dataclasses.replace(split, train=split.train[: len(split.train) // 2])
    first = _run(tmp_path / "half", whole)
    PatchCore(whole).fit(half, first)
    more = dataclasses.replace(whole, base_run=str(first.path))
    extended, fresh = _run(tmp_path / "more", more), _run(tmp_path / "fresh", whole)
    PatchCore(more).fit(split, extended)
    PatchCore(whole).fit(split, fresh)
    assert extended.metadata["patches_seen"] == fresh.metadata["patches_seen"]
    assert extended.metadata["patches_in_bank"] == fresh.metadata["patches_in_bank"]
    pairs = zip(
        predict_samples(PatchCore(more).load(extended), split.test),
        predict_samples(PatchCore(whole).load(fresh), split.test),
        strict=True,
    )
    for one, other in pairs:
        assert one.score == pytest.approx(other.score, rel=1e-3)
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, rtol=1e-3, atol=1e-4)


def test_a_run_that_saw_held_out_images_is_not_extended(tmp_path: Path, split: Split) -> None:
    seen = dataclasses.replace(split, train=(*split.train, *split.val))
    first = _run(tmp_path / "a", SMALL)
    PatchCore(SMALL).fit(seen, first)
    more = dataclasses.replace(SMALL, base_run=str(first.path))
    with pytest.raises(RunError, match="held out here"):
        PatchCore(more).fit(split, _run(tmp_path / "b", more))


def test_extending_with_another_backbone(tmp_path: Path, split: Split) -> None:
    first = _run(tmp_path / "a", SMALL)
    PatchCore(SMALL).fit(split, first)
    more = dataclasses.replace(SMALL, base_run=str(first.path), image_size=96)
    with pytest.raises(WeightsError, match="was made with image_size=64, not 96"):
        PatchCore(more).fit(split, _run(tmp_path / "b", more))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"whitening": None, "pca_dim": 3, "image_score": "max"},
        {
            "pca_dim": 0,
            "image_score": "max",
            "num_neighbors": 3,
            "feature_stride": 0,
        },
    ],
)
def test_onnx_says_what_the_run_says(tmp_path: Path, split: Split, changes: dict[str, Any]) -> None:
    settings = dataclasses.replace(SMALL, **changes)
    run, _ = _fit_predict(tmp_path, split, settings)
    check_onnx(PatchCore(settings).load(run), split.test[:3], tmp_path)


def test_one_value_of_the_bank_that_is_not_a_number_is_refused(
    tmp_path: Path, split: Split
) -> None:
    from safetensors.torch import load_file, save_file

    run, _ = _fit_predict(tmp_path, split, SMALL)
    path = run.weights / "model.safetensors"
    state = load_file(path)
    state["0.features"][3, 5] = float("nan")
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"model\.safetensors: damaged \(checksum") as caught:
        PatchCore(SMALL).load(run)
    assert "\n" not in str(caught.value)
    record = read_json(run.weights / "model.json")
    write_json(run.weights / "model.json", {**record, "sha256": file_sha256(path)})
    with pytest.raises(WeightsError, match="features holds values that are not finite"):
        PatchCore(SMALL).load(run)


def test_a_base_run_that_was_whitened_otherwise(tmp_path: Path, split: Split) -> None:
    first = _run(tmp_path / "a", SMALL)
    PatchCore(SMALL).fit(split, first)
    more = dataclasses.replace(SMALL, base_run=str(first.path), whitening=None)
    with pytest.raises(ConfigError, match=r"whitening=None: .* has 0\.1"):
        PatchCore(more).fit(split, _run(tmp_path / "b", more))
