"""Both detectors from split to predictions, on the small synthetic sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.methods.yolo.small import NewRun, fit
from toolkit import ultralytics_env
from toolkit.data.dataset_cards import class_phrases
from toolkit.data.splits import Split
from toolkit.errors import WeightsError
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.registry import method_class
from toolkit.methods.yolo import network
from toolkit.methods.yolo.settings import YoloSettings
from toolkit.methods.yolo.text_embeddings import (
    NOT_CLIP,
    TextEmbeddings,
    load_text_embeddings,
    orthonormal_embeddings,
    text_embedding_patch,
)
from toolkit.methods.yolo.training_data import write_training_data
from toolkit.runs.prediction_io import write_predictions
from toolkit.runs.run import Run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo", "yolo-world"])
def test_fit_and_predict_leave_a_complete_run(
    name: str,
    new_run: NewRun,
    split: Split,
    no_network: list[Any],
    no_weights: None,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    source = {"text_embeddings": ""} if name == "yolo-world" else {}
    # Nothing can be fetched: from scratch, and without CLIP.
    method, run = new_run(name, weights="auto", ultralytics_args={}, **source)
    fit(method, run, split)
    assert no_network == []
    assert capsys.readouterr().out == ""

    assert (run.weights / "last.pt").is_file()
    assert run.metadata["weights"] == "none"
    assert run.metadata["parameters"] > 1e4
    assert run.metadata["weights_source"].startswith("from scratch")
    assert run.metadata["epochs_done"] == 2
    assert run.metadata["precision"] in ("bfloat16", "float32")
    logged = (run.path / "log.txt").read_text()
    assert "from scratch: pretrained weights could not be fetched (not reachable" in logged
    assert ("since CLIP cannot be had" in logged) == (name == "yolo-world")
    rows = run.results()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 < float(row["loading_share"]) < 1 for row in rows)
    for column in ("train_box_loss", "train_cls_loss", "val_box_loss", "val_map50", "seconds"):
        assert all(np.isfinite(float(row[column])) for row in rows)
    assert any(run.plots.iterdir())

    reopened = Run.open(run.path)  # as another process would
    predictor = method_class(name)(method.settings).load(reopened)
    predictions = list(predict_samples(predictor, split.val))
    assert [p.sample_id for p in predictions] == [s.id for s in split.val]
    for prediction in predictions:
        boxes = prediction.boxes
        assert prediction.score == (boxes.scores.max() if len(boxes) else 0.0)
        assert set(boxes.labels) <= set(split.dataset.classes)
        assert np.all(boxes.scores >= 0.001)
        assert np.all((boxes.xyxy >= 0) & (boxes.xyxy <= 128))
        assert np.all(boxes.xyxy[:, :2] < boxes.xyxy[:, 2:])
    for part, samples in (("val", split.val), ("test", split.test)):
        write_predictions(run.predictions, part, predict_samples(method.load(run), samples))
    report = method.report(split, run)
    assert {"best_epoch", "val_map50_in_training", "false_positives"} <= set(report)

    assert method.load(run).steps()["classes"] == list(predictor.network.names.values())
    if name == "yolo-world":
        assert run.metadata["prompts_source"] == NOT_CLIP
        assert (
            load_text_embeddings(run.weights / "prompts.safetensors").phrases
            == split.dataset.classes
        )
        assert "not CLIP" in report["retention"]["reason"]

    fit(method, run, split)  # a finished training is not repeated
    assert run.results() == rows


def _untrained(method: Any, run: Run) -> Run:
    """Give a run an untrained network, as if it had been trained."""
    import torch

    ultralytics_env.prepare()
    detector = network.build_network(method.settings.model, nc=2)
    detector.names = {0: "crack", 1: "dirt"}
    torch.save({"model": detector, "train_args": {}}, run.weights / "last.pt")
    return run


@pytest.mark.parametrize(("tta", "views"), [(False, 1), (True, 8)])
def test_loading_and_predicting_write_nothing_into_the_run(
    tta: bool, views: int, new_run: NewRun
) -> None:
    method, run = new_run("yolo", tta=tta)
    run.record["data"] = {"name": "bottle"}  # its card allows every flip and turn
    _untrained(method, run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    predictor = method.load(run)
    assert len(predictor.transforms) == views
    (prediction,) = predictor.predict([np.zeros((70, 90, 3), np.uint8)])
    assert np.isfinite(prediction.score)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_damaged_class_embeddings_are_refused(new_run: NewRun) -> None:
    method, run = new_run("yolo-world")
    _untrained(method, run)
    for content in (None, b"damaged"):
        if content is not None:
            (run.weights / "prompts.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match=r"prompts\.safetensors: .*train again"):
            method.load(run)


@pytest.mark.slow
def test_equal_seeds_give_equal_predictions(new_run: NewRun, split: Split) -> None:
    found = []
    for name in ("a", "b"):
        method, run = new_run("yolo-world", run=name)
        fit(method, run, split)
        found.append(list(predict_samples(method.load(run), split.val)))
    for first, second in zip(*found, strict=True):
        assert first.score == second.score
        np.testing.assert_array_equal(first.boxes.xyxy, second.boxes.xyxy)


@pytest.mark.slow
def test_prompt_tuning_changes_the_prompts_and_nothing_else(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    import torch

    ultralytics_env.prepare()
    base = network.build_network("yolo11n-world", nc=3)
    path = tmp_path / "base.pt"
    torch.save({"model": base, "train_args": {}}, path)
    method, run = new_run("yolo-world", weights=str(path), trainable="prompts")
    fit(method, run, split)

    trained = network.load_network(run.weights / "last.pt").state_dict()
    before = base.half().float().state_dict()  # checkpoints are stored in half precision
    changed = [
        n
        for n, t in trained.items()
        if n not in before or not torch.equal(t.float(), before[n].float())
    ]
    assert changed == ["prompts"]
    classes = list(split.dataset.classes)
    tuned = load_text_embeddings(run.weights / "prompts.safetensors")
    start = load_text_embeddings(run.weights / "phrases.safetensors")
    assert tuned.source.startswith("tuned on")
    assert run.metadata["prompts_source"] == tuned.source
    assert NOT_CLIP in tuned.source  # tuning gives no meaning to other words
    assert not np.allclose(tuned.of(classes), start.of(start.phrases)[: len(classes)], atol=1e-3)
    assert run.metadata["tensors_copied"] == f"{len(before)} of {len(before) + 1}"

    # The bank alone serves the untouched base.
    base.eval()
    image = torch.rand(1, 3, 64, 64)
    with text_embedding_patch(tuned), torch.inference_mode():
        base.set_classes(classes)
        own = network.load_network(run.weights / "last.pt")
        own.set_classes(classes)
        np.testing.assert_allclose(base(image)[0], own(image)[0], atol=1e-4)


@pytest.mark.slow
def test_retention_of_classes_known_by_clip(new_run: NewRun, split: Split, tmp_path: Path) -> None:
    import torch

    ultralytics_env.prepare()
    base = network.build_network("yolo11n-world", nc=3)
    torch.save({"model": base, "train_args": {}}, tmp_path / "base.pt")
    phrases = [p for name in split.dataset.classes for p in class_phrases(split.dataset)[name]]
    made = orthonormal_embeddings([*phrases, "cat", "dog"])
    stand_in = TextEmbeddings(made.phrases, made.vectors, "CLIP ViT-B/32 (a stand-in)")
    stand_in.save(tmp_path / "clip.safetensors")
    data = write_training_data(
        split,
        tmp_path / "old",
        YoloSettings(background_images="0", image_size=64, copy_paste_per_image=0),
        seed=0,
    )
    old = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump(old | {"names": {0: "cat", 1: "dog", 2: phrases[0]}}))
    method, run = new_run(
        "yolo-world",
        weights=str(tmp_path / "base.pt"),
        text_embeddings=str(tmp_path / "clip.safetensors"),
        retention_data=str(data),
    )
    fit(method, run, split)
    for part, samples in (("val", split.val), ("test", split.test)):
        write_predictions(run.predictions, part, predict_samples(method.load(run), samples))
    found = method.report(split, run)["retention"]
    assert found["images"] == len(split.val)
    assert found["map50_change"] == found["map50_after"] - found["map50_before"]
    assert run.metadata["prompts_source"] == stand_in.source


@pytest.mark.slow
def test_head_training_with_a_background_prompt(new_run: NewRun, split: Split) -> None:
    method, run = new_run(
        "yolo-world", trainable="head", background_prompt="nothing", copy_paste_per_image=1
    )
    fit(method, run, split)
    assert load_text_embeddings(run.weights / "prompts.safetensors").phrases == (
        *split.dataset.classes, "nothing",
    )  # fmt: skip
    for prediction in predict_samples(method.load(run), split.val):
        assert "nothing" not in prediction.boxes.labels
