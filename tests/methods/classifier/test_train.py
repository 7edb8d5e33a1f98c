"""Training on tiny images: learning, choosing, stopping, resuming."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tests.methods.classifier.training import CLASSES, TINY, colored, new_run, train_colored
from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.classifier import train as train_module
from toolkit.methods.classifier.checkpoint import (
    BEST,
    LAST,
    ModelInfo,
    read_best,
    read_last,
    write_best,
)
from toolkit.methods.classifier.data import ImageSet
from toolkit.methods.classifier.method import Classifier
from toolkit.methods.classifier.network import build_network
from toolkit.methods.classifier.train import recalibrate_batch_norm, train
from toolkit.runs.run import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        (2, {}),  # between the epochs of the head phase
        (3, {}),  # at the change of phase
        (4, {"optimizer": "sgd", "augmentation_strength": "strong", "imbalance": "sampler"}),
        (4, {"optimizer": "adam", "mixup": 0.4, "monitor": "loss"}),
        (4, {"precision": "bfloat16", "imbalance": "effective-number"}),
        (4, {"batch_norm": "recalibrated", "validate_every": 2}),
        (4, {"imbalance": "logit-adjustment"}),  # its shift must not pile up in the head's bias
        (5, {"imbalance": "crt", "retrain_epochs": 2}),  # as the new head begins
        (6, {"imbalance": "crt", "retrain_epochs": 2}),  # within its epochs
        (
            6,
            {
                "imbalance": "smote",
                "retrain_epochs": 2,
                "smote_num_neighbors": 2,
                "augmentations": 2,
            },
        ),
    ],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, changes: dict[str, object]
) -> None:
    settings = dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(train_module, "SAVE_EVERY_SECONDS", 0.0)
    whole = new_run(tmp_path, settings, "whole")
    train_colored(whole, settings)

    cut = new_run(tmp_path, settings, "cut")
    add_result = Run.add_result

    def interrupting(self: Run, row: dict[str, float]) -> None:
        if row["epoch"] == stop_at:
            raise KeyboardInterrupt
        add_result(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "add_result", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train_colored(cut, settings)
    assert len(cut.results()) == stop_at - 1
    state = train_colored(cut, settings)

    assert state.epochs_done == 4 + (settings.retrain_epochs if "retrain_epochs" in changes else 0)
    assert "resumed after epoch" in (cut.path / "log.txt").read_text()
    expected, info = read_best(whole.weights / BEST)
    found, found_info = read_best(cut.weights / BEST)
    assert found_info == info
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    last, found_last = read_last(whole.weights / LAST), read_last(cut.weights / LAST)
    assert last["state"] == found_last["state"]
    assert all(torch.equal(last["model"][k], found_last["model"][k]) for k in last["model"])


@pytest.mark.parametrize("imbalance", ["crt", "smote"])
def test_a_new_head_on_the_best_backbone(tmp_path: Path, imbalance: str) -> None:
    settings = dataclasses.replace(
        TINY, imbalance=imbalance, retrain_epochs=3, head_epochs=0, monitor="loss",
        smote_num_neighbors=2,
        patience=1,
    )  # fmt: skip
    run = new_run(tmp_path, settings)
    train_colored(run, settings)
    found, info = read_best(run.weights / BEST)
    assert info.validation["epoch"] > 2  # patience or a better old head never wins over the new one
    assert "a new head on the features of epoch" in (run.path / "log.txt").read_text()
    plain = dataclasses.replace(settings, imbalance="none")
    other = new_run(tmp_path, plain, "plain")
    train_colored(other, plain)
    stage_one, _ = read_best(other.weights / BEST)
    differing = {name for name in found if not torch.equal(found[name], stage_one[name])}
    assert differing == {"head.weight", "head.bias"}


def test_logit_adjustment_is_a_shift_of_the_bias(tmp_path: Path) -> None:
    part = colored(18, 0)
    rare = ImageSet(part.images[2:], part.labels[2:], part.keys[2:])  # 5 good, 5 red, 6 blue
    tensors = []
    for name in ("none", "logit-adjustment"):
        settings = dataclasses.replace(TINY, imbalance=name)  # type: ignore[arg-type]
        run = new_run(tmp_path, settings, name)
        torch.manual_seed(0)
        train(
            build_network(settings.network, 3)[0],
            ModelInfo(settings.network, CLASSES, 16),
            train_images=rare,
            val_images=colored(9, 1),
            settings=settings,
            run=run,
        )
        tensors.append(read_best(run.weights / BEST)[0])
    shift = tensors[1]["head.bias"] - tensors[0]["head.bias"]
    expected = -torch.tensor([5.0, 5, 6]).div(16).log()
    assert torch.allclose(shift, expected, atol=1e-5)
    assert torch.equal(tensors[0]["head.weight"], tensors[1]["head.weight"])


def test_the_head_phase_leaves_the_backbone_alone(tmp_path: Path) -> None:
    # random features of a ResNet still separate colors, those of a MobileNet fade away
    settings = dataclasses.replace(
        TINY, network="resnet18", finetune_epochs=0, head_epochs=3, head_c=1.0
    )
    run = new_run(tmp_path, settings)
    train_colored(run, settings)
    torch.manual_seed(0)
    fresh = build_network(settings.network, len(CLASSES))[0].state_dict()
    found, _ = read_best(run.weights / BEST)
    changed = {name for name in fresh if not torch.equal(fresh[name], found[name])}
    assert changed == {"head.weight", "head.bias"}
    assert float(run.results()[-1]["val_accuracy"]) > 0.8


@pytest.mark.parametrize("imbalance", ["none", "sampler"])
def test_the_head_is_scikit_learns_logistic_regression(tmp_path: Path, imbalance: str) -> None:
    from sklearn.linear_model import LogisticRegression

    settings = dataclasses.replace(
        TINY, network="resnet18", finetune_epochs=0, head_epochs=5, head_c=0.1,
        imbalance=imbalance,  # type: ignore[arg-type]
    )  # fmt: skip
    part = colored(24, 0)
    rare = ImageSet(part.images[6:], part.labels[6:], part.keys[6:])
    run = new_run(tmp_path, settings)
    torch.manual_seed(0)
    model = build_network("resnet18", 3)[0].eval()
    with torch.no_grad():
        features = model.backbone(model.normalize(rare.images.float() / 255)).numpy()
    train(
        model, ModelInfo("resnet18", CLASSES, 16), train_images=rare, val_images=colored(9, 1),
        settings=settings, run=run,
    )  # fmt: skip
    weight = None if imbalance == "none" else "balanced"
    other = LogisticRegression(C=0.1, class_weight=weight, tol=1e-8, max_iter=2000)
    other.fit(features, rare.labels.numpy())
    found, _ = read_best(run.weights / BEST)
    ours = features @ found["head.weight"].numpy().T + found["head.bias"].numpy()
    theirs = other.decision_function(features)
    ours, theirs = (one - one.mean(1, keepdims=True) for one in (ours, theirs))
    assert abs(ours - theirs).max() < 0.01 * abs(theirs).max()


def test_results_have_a_row_per_epoch(tmp_path: Path) -> None:
    run = new_run(tmp_path, TINY)
    train_colored(run, TINY)
    rows = run.results()
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0]) == [
        "epoch",
        "lr",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_balanced_accuracy",
        "val_auroc",
        "seconds",
    ]
    assert float(rows[0]["lr"]) == 1
    assert float(rows[2]["lr"]) == TINY.lr
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())


def test_batch_statistics_are_those_of_all_training_images() -> None:
    torch.manual_seed(0)
    model, _ = build_network("resnet18", 3)
    model.set_trainable("all", batch_norm="recalibrated")
    norm = model.backbone.bn1
    batches = [
        torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    ]
    recalibrate_batch_norm(model, batches)
    maps = model.backbone.conv1(torch.cat(batches))  # type: ignore[operator]
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    halves = [model.backbone.conv1(b).var((0, 2, 3)) for b in batches]  # type: ignore[operator]
    torch.testing.assert_close(norm.running_var, sum(halves) / 2, atol=1e-5, rtol=1e-4)
    assert norm.momentum == 0.1
    model.set_trainable("all", batch_norm="frozen")
    before = norm.running_mean.clone()
    recalibrate_batch_norm(model, [b + 5 for b in batches])  # frozen ones are left alone
    assert torch.equal(norm.running_mean, before)


def test_validation_every_few_epochs_and_after_the_last(tmp_path: Path) -> None:
    settings = dataclasses.replace(
        TINY, head_epochs=0, finetune_epochs=5, validate_every=2, monitor="loss"
    )
    run = new_run(tmp_path, settings)
    state = train_colored(run, settings)
    validated = [row["epoch"] for row in run.results() if row["val_loss"]]
    assert validated == ["2", "4", "5"]
    assert str(state.best_epoch) in validated
    assert all(row["train_loss"] for row in run.results())


def test_patience_stops_and_the_best_epoch_is_kept(tmp_path: Path) -> None:
    # so small a rate that nothing gets better: the loss of the first epochs wins
    settings = dataclasses.replace(
        TINY, head_epochs=0, lr=1e-12, finetune_epochs=30, patience=3, monitor="auroc"
    )
    run = new_run(tmp_path, settings)
    state = train_colored(run, settings)
    assert state.stopped
    assert state.epochs_done == state.best_epoch + 3
    assert state.epochs_done < 30
    _, info = read_best(run.weights / BEST)
    assert info.validation["epoch"] == state.best_epoch


def test_an_infinite_loss_stops_with_the_fix(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, head_epochs=0, optimizer="sgd", lr=1e30, finetune_epochs=3)
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) in epoch 1; .*lower"):
        train_colored(new_run(tmp_path, settings), settings)


def test_a_run_without_training_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"best\.safetensors: no trained classifier"):
        Classifier(TINY).load(new_run(tmp_path, TINY))


@pytest.mark.parametrize("damage", ["cut", "text", "bit", "nan", "other"])
def test_damaged_weights_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    run = new_run(tmp_path, TINY)
    path = run.weights / BEST
    tensors = build_network(TINY.network, 3)[0].state_dict()
    network = "resnet18" if damage == "other" else TINY.network
    if damage == "nan":
        tensors["head.bias"][1] = math.nan
    write_best(path, tensors, ModelInfo(network, CLASSES, 16))
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-100] ^= 64
    path.write_bytes({"cut": content[:-9], "text": b"no tensors"}.get(damage, bytes(content)))
    with pytest.raises(WeightsError) as error:
        Classifier(TINY).load(run)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("lr", [0.1, 1e-12])
def test_fine_tuning_is_kept_only_where_validation_gains(tmp_path: Path, lr: float) -> None:
    # The head is perfect: fine-tuning that destroys it, or only lowers its loss, is not kept.
    settings = dataclasses.replace(
        TINY, network="resnet18", head_epochs=3, head_c=1.0, finetune_epochs=2, lr=lr,
        train_layers="all", monitor="auroc",
    )  # fmt: skip
    run = new_run(tmp_path, settings)
    state = train_colored(run, settings)
    assert float(run.results()[state.best_epoch - 1]["val_auroc"]) == 1
    assert state.best_epoch == 3
