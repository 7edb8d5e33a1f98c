"""Bad input is refused in one line before anything is trained or written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.methods.yolo.small import Killed, NewRun
from toolkit import ultralytics_env
from toolkit.data.dataset_cards import class_phrases
from toolkit.data.splits import Split
from toolkit.data.types import file_sha256
from toolkit.errors import ConfigError, DataError, ToolkitError, WeightsError
from toolkit.methods.yolo import network, training
from toolkit.methods.yolo.text_embeddings import (
    TextEmbeddings,
    load_text_embeddings,
    orthonormal_embeddings,
)


@pytest.mark.parametrize(
    ("name", "model", "other"),
    [("yolo", "yolo11n-world", "yolo-world"), ("yolo-world", "yolo11n", "yolo")],
)
def test_a_network_of_the_other_method_is_refused(
    name: str, model: str, other: str, new_run: NewRun, split: Split
) -> None:
    method, run = new_run(name, model=model)
    with pytest.raises(ConfigError, match=f"belongs to the method {other}$"):
        method.fit(split, run)


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("yolo", 99, "freeze_layers=99: yolo11n has 24 layers.* at most 23$"),
        ("yolo", 24, "freeze_layers=24: .* at most 23$"),  # nothing would be trained
        ("yolo-world", 24, "freeze_layers=24: yolo11n-world has 24 layers"),
    ],
)
def test_freezing_every_layer_is_refused(
    name: str, layers: int, message: str, new_run: NewRun, split: Split
) -> None:
    method, run = new_run(name, freeze_layers=layers)
    with pytest.raises(ConfigError, match=message):
        method.fit(split, run)
    assert not (run.path / "data").exists()


def test_a_checkpoint_under_another_name_is_refused(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    (tmp_path / "start.pth").write_bytes(b"")
    method, run = new_run("yolo", weights=str(tmp_path / "start.pth"))
    with pytest.raises(WeightsError, match=r"start\.pth: not a \.pt file"):
        method.fit(split, run)
    assert not (run.path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hsv_w": 0.1}, "no argument 'hsv_w'; did you mean 'hsv_"),
        ({"hsv_v": "much"}, "ultralytics_args: .*hsv_v"),
        ({"mixup": 3.0}, "ultralytics_args: .*mixup"),  # a probability
    ],
)
def test_arguments_that_ultralytics_does_not_take(
    arguments: dict[str, Any], message: str, new_run: NewRun, split: Split
) -> None:
    method, run = new_run("yolo", ultralytics_args=arguments)
    with pytest.raises(ConfigError, match=message):
        method.fit(split, run)


def test_a_split_without_boxes_is_refused(new_run: NewRun, split: Split) -> None:
    method, run = new_run("yolo")
    good = replace(split, train=tuple(s for s in split.train if not s.is_defect))
    with pytest.raises(DataError, match="no boxes in the training part"):
        method.fit(good, run)
    assert not (run.path / "data").exists()


def test_unreachable_weights_stop_the_run(new_run: NewRun, split: Split, no_weights: None) -> None:
    method, run = new_run("yolo", weights="pretrained")
    with pytest.raises(WeightsError, match="--weights none"):
        method.fit(split, run)


def test_a_bank_without_a_needed_phrase_is_refused(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    orthonormal_embeddings(["something else"]).save(tmp_path / "bank.safetensors")
    method, run = new_run("yolo-world", text_embeddings=str(tmp_path / "bank.safetensors"))
    with pytest.raises(ConfigError, match="no vector for"):
        method.fit(split, run)


@pytest.mark.parametrize(
    ("known", "file", "message"),
    [
        (("cat", "dog"), "old.yaml", None),
        (("cat", "dog"), "typo.yaml", r"typo\.yaml: cannot be read"),
        (("cat",), "old.yaml", "no vector for 'dog'"),
    ],
)
def test_retention_data_is_read_before_training(
    known: tuple[str, ...],
    file: str,
    message: str | None,
    new_run: NewRun,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The report needs it, and after a training it would be too late to correct it."""
    phrases = [phrase for group in class_phrases(split.dataset).values() for phrase in group]
    made = orthonormal_embeddings([*phrases, *known])
    bank = TextEmbeddings(made.phrases, made.vectors, "CLIP ViT-B/32 (a stand-in)")
    bank.save(tmp_path / "bank.safetensors")
    (tmp_path / "old.yaml").write_text("val: images\nnames: [cat, dog]\n")
    (tmp_path / "images").mkdir()
    assert cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros((8, 8, 3), np.uint8))
    method, run = new_run(
        "yolo-world",
        text_embeddings=str(tmp_path / "bank.safetensors"),
        retention_data=str(tmp_path / file),
    )
    if message is None:  # as far as the training itself
        monkeypatch.setattr(training, "train", _killed)
        with pytest.raises(Killed):
            method.fit(split, run)
        assert load_text_embeddings(run.weights / "retention_classes.safetensors").phrases == known
        return
    with pytest.raises(ConfigError, match=message) as raised:
        method.fit(split, run)
    assert "\n" not in str(raised.value)
    assert not (run.path / "data").exists()


def _killed(*args: Any, **kwargs: Any) -> None:
    raise Killed


def test_a_checkpoint_of_another_size_is_refused_before_training(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    import torch

    ultralytics_env.prepare()
    donor = network.build_network("yolo11s", nc=3)
    path = tmp_path / "s.pt"
    torch.save({"model": donor, "train_args": {}}, path)
    method, run = new_run("yolo", weights=str(path))
    with pytest.raises(WeightsError, match=r"s\.pt: only .*another architecture"):
        method.fit(split, run)
    assert not (run.path / "data").exists()


def _with_classes(split: Split, names: list[str]) -> Split:
    """The split with the defects' types renamed, as many as there are names."""
    defects = [s for s in split.dataset.samples if s.is_defect]
    samples = tuple(replace(defects[0], id=f"{i}.png", label=n) for i, n in enumerate(names))
    renamed = replace(split.dataset, samples=samples)
    return replace(split, dataset=renamed, train=samples, val=samples, test=())


def _bad_input(case: str, split: Split, folder: Path) -> tuple[Split, dict[str, Any]]:
    """Return a split and settings of which one is wrong."""
    if case == "a slash":
        return _with_classes(split, ["crack", "dirt/dust"]), {}
    if case == "many classes":
        return _with_classes(split, [f"type{i:02d}" for i in range(81)]), {}
    if case == "nothing to train on":
        return replace(split, train=()), {}
    if case == "no boxes to validate":
        return replace(split, val=tuple(s for s in split.val if not s.is_defect)), {}
    if case == "a bank of a larger CLIP":
        from safetensors.numpy import save_file

        about = {"schema": "1", "source": "CLIP ViT-L/14", "phrases": '["crack"]'}
        save_file({"vectors": np.ones((1, 768), np.float32)}, folder / "l.safetensors", about)
        return split, {"text_embeddings": str(folder / "l.safetensors")}
    import torch

    ultralytics_env.prepare()
    from ultralytics.nn import modules

    path = folder / "weights.pt"
    if case == "weights of another family":
        other = network.build_network("yolov8n", nc=3)
        torch.save({"model": other, "train_args": {}}, path)
    else:
        new = type("LayerOfTheFuture", (torch.nn.Module,), {"__module__": modules.__name__})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(modules, "LayerOfTheFuture", new, raising=False)
            torch.save({"model": new(), "train_args": {}, "version": "9.0.0"}, path)
    return split, {"weights": str(path)}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("a slash", "'dirt/dust' has a '/'"),
        ("many classes", "81 classes, but YOLO-World trains on at most 80"),
        ("nothing to train on", "training part is empty"),
        ("no boxes to validate", "no boxes in the validation part"),
        ("a bank of a larger CLIP", r"l\.safetensors: .*\(1, 768\)"),
        ("weights of another family", r"weights\.pt: only .*another architecture"),
        ("weights of a newer Ultralytics", r"weights\.pt: made by Ultralytics 9\.0\.0"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    case: str, message: str, new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    wrong, settings = _bad_input(case, split, tmp_path)
    method, run = new_run("yolo-world", **settings)
    with pytest.raises(ToolkitError, match=message) as raised:
        method.fit(wrong, run)
    assert "\n" not in str(raised.value)
    assert not (run.path / "data").exists()
    assert not (run.path / "ultralytics").exists()


def test_a_run_without_weights_cannot_predict(new_run: NewRun) -> None:
    method, run = new_run("yolo")
    with pytest.raises(WeightsError, match=r"last\.pt: missing"):
        method.load(run)


def test_changed_weights_are_refused(new_run: NewRun) -> None:
    import torch

    ultralytics_env.prepare()
    method, run = new_run("yolo")
    path = run.weights / "last.pt"
    detector = network.build_network("yolo11n", nc=3)
    torch.save({"model": detector, "train_args": {}}, path)
    run.update_metadata(checkpoint_sha256=file_sha256(path))
    assert method.load(run).network is not None
    for value in (0.5, float("nan")):
        with torch.no_grad():
            detector.model[0].conv.weight[0, 0, 0, 0] = value
        torch.save({"model": detector, "train_args": {}}, path)
        with pytest.raises(WeightsError, match=r"last\.pt: .* \(SHA-256 differs\)"):
            method.load(run)
