"""All scorers on frozen features, end to end on the synthetic sample, with random weights."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.runtime.parity import check_onnx
from toolkit.config import build_settings, find_config, read_yaml, settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import ConfigError, DataError, WeightsError
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.base import Method
from toolkit.methods.registry import method_class
from toolkit.prediction import Prediction
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run

pytestmark = pytest.mark.slow

COMMON = {"weights": "none", "image_size": 64}
SMALL: dict[str, dict[str, Any]] = {
    "padim": {"n_features": 20},
    "feature-autoencoder": {"epochs": 2, "width": 16, "bottleneck": 4},
    "devnet": {"steps": 20, "synthetic_defects_count": 4},
    "patchcore+": {"coreset_size": 50, "coreset_sampling_ratio": 1.0, "synthetic_defects_count": 4},
}
FEW_LABELS = ("devnet", "patchcore+")
_REFUSED = ("devnet", "top_1_percent")

Fitted = Callable[[str, Path], Run]


@pytest.fixture(scope="module")
def split(sample_dir: Path) -> Split:
    dataset = load_dataset(sample_dir)
    return make_plan(dataset, folds=3).fold(dataset, 0)


def _method(name: str, **changes: Any) -> Method[Any]:
    cls = method_class(name)
    values = {**COMMON, **SMALL[name], **changes}
    return cls(build_settings(cls.Settings, values, source="test"))


def _fit(method: Method[Any], split: Split, folder: Path) -> Run:
    seed_everything(0)
    settings = settings_dict(method.settings)
    run = Run.create(folder, method=method.name, settings=settings, split={}, data={})
    method.fit(split, run)
    return run


@pytest.fixture(scope="module")
def fitted(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Return a copy of a run with the settings above, which is trained once per method."""
    made: dict[str, Run] = {}

    def copy_of(name: str, folder: Path) -> Run:
        if name not in made:
            made[name] = _fit(_method(name), split, tmp_path_factory.mktemp("fitted"))
        return Run.open(shutil.copytree(made[name].path, folder / "fitted"))

    return copy_of


def _scores(predictions: list[Prediction]) -> list[float]:
    return [p.score for p in predictions]


@pytest.mark.parametrize("name", SMALL)
def test_registered_with_a_config(name: str, real_home: Path) -> None:
    values = read_yaml(find_config(f"{name}/default"))
    cls = method_class(values.pop("method"))
    assert cls.name == name
    # Defaults stand in the dataclass alone.
    assert build_settings(cls.Settings, values, source="x") == cls.Settings()


@pytest.mark.parametrize("name", SMALL)
def test_fit_then_predict_from_the_run_alone(name: str, split: Split, tmp_path: Path) -> None:
    run = _fit(_method(name), split, tmp_path)
    predictions = list(predict_samples(_method(name).load(run), split.test))
    assert [p.sample_id for p in predictions] == [s.id for s in split.test]
    for prediction in predictions:
        assert prediction.anomaly_map is not None
        assert prediction.anomaly_map.shape == (64, 64)
        assert np.isfinite(prediction.anomaly_map).all()
        assert np.isfinite(prediction.score)
    assert len(set(_scores(predictions))) > 1
    assert run.metadata["weights"] == "none"
    assert run.metadata["parameters"] > 1e4
    assert {f.suffix for f in run.weights.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", SMALL)
def test_same_seed_same_scores(name: str, split: Split, tmp_path: Path) -> None:
    first = _fit(_method(name), split, tmp_path / "a")
    second = _fit(_method(name), split, tmp_path / "b")  # from cached features, where there are any
    few = split.test[:3]
    assert _scores(list(predict_samples(_method(name).load(first), few))) == _scores(
        list(predict_samples(_method(name).load(second), few))
    )


@pytest.mark.parametrize("name", SMALL)
def test_an_odd_grid(name: str, split: Split, tmp_path: Path) -> None:
    method = _method(name, image_size=72, feature_stride=8)  # 9 cells a side
    run = _fit(method, split, tmp_path)
    (prediction,) = predict_samples(method.load(run), split.test[:1])
    assert prediction.anomaly_map is not None
    assert prediction.anomaly_map.shape == (72, 72)


@pytest.mark.parametrize("name", FEW_LABELS)
def test_no_label_means_synthetic_defects(name: str, split: Split, tmp_path: Path) -> None:
    run = _fit(_method(name), split.with_budget(0), tmp_path / "a")
    assert run.metadata["synthetic_defects"] == 4
    with_labels = _fit(_method(name), split.with_budget(1), tmp_path / "b")
    assert "synthetic_defects" not in with_labels.metadata


@pytest.mark.parametrize("name", FEW_LABELS)
def test_no_label_and_no_synthetic_defects(name: str, split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--synthetic-defects auto"):
        _fit(_method(name, synthetic_defects="never"), split.with_budget(0), tmp_path)


@pytest.mark.parametrize(
    ("name", "image_score"),
    [(name, how) for name in SMALL for how in ("max", "top_1_percent") if (name, how) != _REFUSED],
)
def test_onnx_says_what_the_run_says(
    name: str, image_score: str, split: Split, tmp_path: Path
) -> None:
    method = _method(name, image_score=image_score)
    run = _fit(method, split, tmp_path)
    check_onnx(method.load(run), split.test[:3], tmp_path)


def test_patchcore_plus_never_scores_below_patchcore(split: Split, tmp_path: Path) -> None:
    run = _fit(_method("patchcore+", image_score="max"), split.with_budget(2), tmp_path)
    raised = list(predict_samples(_method("patchcore+").load(run), split.test))
    plain = list(predict_samples(_method("patchcore+", defect_weight=0.0).load(run), split.test))
    for high, low in zip(raised, plain, strict=True):
        assert high.anomaly_map is not None
        assert low.anomaly_map is not None
        assert (high.anomaly_map >= low.anomaly_map - 1e-5).all()
    assert any(h.score > low.score for h, low in zip(raised, plain, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_no_good_images(name: str, split: Split, tmp_path: Path) -> None:
    only = dataclasses.replace(split, train=tuple(s for s in split.train if s.is_defect))
    with pytest.raises(DataError, match="no good images"):
        _fit(_method(name), only, tmp_path)


@pytest.mark.parametrize("name", ["padim", "feature-autoencoder"])
def test_one_good_image_is_too_few(name: str, split: Split, tmp_path: Path) -> None:
    good = tuple(s for s in split.train if not s.is_defect)[:1]
    with pytest.raises(DataError, match="1 good images to train on"):
        _fit(_method(name), dataclasses.replace(split, train=good), tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_constant_images(name: str, split: Split, tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((64, 64, 3), 128, np.uint8))
    grey = tuple(Sample(id=f"{i}.png", image=path, label="good", part="train") for i in range(3))
    defects = tuple(s for s in split.train if s.is_defect)
    method = _method(name)
    run = _fit(method, dataclasses.replace(split, train=grey + defects, val=()), tmp_path / "r")
    predictions = list(predict_samples(method.load(run), [grey[0], *split.test[:2]]))
    assert np.isfinite(_scores(predictions)).all()
    if name == "padim":  # without a variance to measure by, differences still have a size
        assert 0 <= predictions[0].score < 1e-2
        assert 0.1 < predictions[1].score < 5e3
        assert "hardly vary" in (run.path / "log.txt").read_text()


def test_images_that_vary_are_not_called_still(split: Split, tmp_path: Path) -> None:
    run = _fit(_method("padim"), split, tmp_path)
    log = run.path / "log.txt"
    assert not log.exists() or "hardly vary" not in log.read_text()


@pytest.mark.parametrize("name", ["padim", "feature-autoencoder", "patchcore+"])
def test_the_image_score_that_was_asked_for(
    name: str, split: Split, fitted: Fitted, tmp_path: Path
) -> None:
    run = fitted(name, tmp_path)
    (prediction,) = predict_samples(
        _method(name, image_score="top_1_percent").load(run), split.test[:1]
    )
    assert prediction.anomaly_map is not None
    highest = np.sort(prediction.anomaly_map.ravel())[-round(0.01 * 64 * 64) :]
    assert prediction.score == pytest.approx(float(highest.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("devnet", "image_score", "top_1_percent"),  # which it would not follow
        ("devnet", "topk_fraction", 0.0),
        ("devnet", "steps", -1),
        ("devnet", "max_images", 0),
        ("feature-autoencoder", "bottleneck", 0),
        ("feature-autoencoder", "max_images", 1),
        ("padim", "n_features", -1),
        ("padim", "shrinkage", -0.1),
        ("padim", "sigma", -1.0),
        ("patchcore+", "defect_weight", -1.0),
        ("patchcore+", "defect_patches", 0),
        ("patchcore+", "num_neighbors", 0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"test: {key}={value}: "):
        _method(name, **{key: value})


@pytest.mark.parametrize("name", SMALL)
def test_another_size_and_aspect(name: str, fitted: Fitted, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), np.zeros((50, 300, 3), np.uint8))
    run = fitted(name, tmp_path / "r")
    (prediction,) = predict_samples(
        _method(name).load(run), [Sample(id="w", image=path, label="good")]
    )
    assert np.isfinite(prediction.score)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("changes", [{"image_size": 96}, {"layers": ("blocks.1", "blocks.2")}])
def test_state_of_another_extractor(
    name: str, changes: dict[str, Any], fitted: Fitted, tmp_path: Path
) -> None:
    run = fitted(name, tmp_path)
    with pytest.raises(WeightsError, match="was made with"):
        _method(name, **changes).load(run)


@pytest.mark.parametrize("name", SMALL)
def test_damaged_or_missing_state(name: str, fitted: Fitted, tmp_path: Path) -> None:
    method = _method(name)
    run = fitted(name, tmp_path)
    for file in run.weights.glob("*.safetensors"):
        file.write_bytes(b"cut")
    with pytest.raises(WeightsError, match="train again"):
        method.load(run)
    for file in run.weights.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(WeightsError, match="train it first"):
        method.load(run)
