"""Both detectors from split to predictions, on the small synthetic sample."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from toolkit import ultralytics_env
from toolkit.config import settings_dict
from toolkit.data.layouts import read_dataset
from toolkit.data.splits import Split, make_plan
from toolkit.errors import ConfigError, DataError, RunError, ToolkitError, WeightsError
from toolkit.methods.registry import method_class
from toolkit.methods.yolo import checkpoint, network
from toolkit.methods.yolo.prompts import NOT_CLIP, PromptBank, load_bank, orthonormal_bank
from toolkit.methods.yolo.training_data import class_prompts, write_training_data
from toolkit.runs.machine import seed_everything
from toolkit.runs.run import Run
from toolkit.runs.storage import write_predictions

TINY = {
    "weights": "none",
    "epochs": 2,
    "image_size": 64,
    "backgrounds": "2",
    "batch": 8,
    "extra": {"plots": False},  # they take longer than the training
}

NewRun = Callable[..., tuple[Any, Run]]


@pytest.fixture
def split(sample_dir: Path) -> Split:
    dataset = read_dataset(sample_dir)
    return make_plan(dataset, folds=3).fold(dataset, 0)


@pytest.fixture
def new_run(tmp_path: Path) -> NewRun:
    def make(name: str, *, run: str = "run", **settings: Any) -> tuple[Any, Run]:
        cls = method_class(name)
        values = cls.Settings(**{**TINY, **settings})
        record = settings_dict(values)
        made = Run.create(
            tmp_path, method=name, settings=record, split={}, data={}, seed=3, name=run
        )
        return cls(values), made

    return make


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    attempts: list[Any] = []

    def blocked(*args: Any, **kwargs: Any) -> None:
        attempts.append(args)
        raise OSError("blocked")

    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    monkeypatch.setattr(socket.socket, "connect", blocked)
    return attempts


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Path:
        raise WeightsError("not reachable")

    monkeypatch.setattr(network, "fetch", fetch)


def _fit(method: Any, run: Run, split: Split) -> None:
    seed_everything(run.seed)
    method.fit(split, run)


# -- before any training starts --


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
    ("extra", "message"),
    [
        ({"hsv_w": 0.1}, "no argument 'hsv_w'; did you mean 'hsv_"),
        ({"hsv_v": "much"}, "extra: .*hsv_v"),
        ({"mixup": 3.0}, "extra: .*mixup"),  # a probability
    ],
)
def test_arguments_that_ultralytics_does_not_take(
    extra: dict[str, Any], message: str, new_run: NewRun, split: Split
) -> None:
    method, run = new_run("yolo", extra=extra)
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
    orthonormal_bank(["something else"]).save(tmp_path / "bank.safetensors")
    method, run = new_run("yolo-world", prompt_bank=str(tmp_path / "bank.safetensors"))
    with pytest.raises(ConfigError, match="no vector for"):
        method.fit(split, run)


def test_a_checkpoint_of_another_size_is_refused_before_training(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    import torch

    ultralytics_env.prepare()
    from ultralytics.nn.tasks import DetectionModel

    donor = DetectionModel(network.model_yaml("yolo11s"), nc=3, verbose=False)
    path = tmp_path / "s.pt"
    torch.save({"model": donor, "train_args": {}}, path)
    method, run = new_run("yolo", weights="pretrained", init=str(path))
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
        return split, {"prompt_bank": str(folder / "l.safetensors")}
    import torch

    ultralytics_env.prepare()
    from ultralytics.nn import modules
    from ultralytics.nn.tasks import DetectionModel

    path = folder / "weights.pt"
    if case == "weights of another family":
        other = DetectionModel(network.model_yaml("yolov8n"), nc=3, verbose=False)
        torch.save({"model": other, "train_args": {}}, path)
    else:
        new = type("LayerOfTheFuture", (torch.nn.Module,), {"__module__": modules.__name__})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(modules, "LayerOfTheFuture", new, raising=False)
            torch.save({"model": new(), "train_args": {}, "version": "9.0.0"}, path)
    return split, {"weights": "pretrained", "init": str(path)}


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


def test_a_run_without_weights_cannot_predict(new_run: NewRun, split: Split) -> None:
    method, run = new_run("yolo")
    with pytest.raises(RunError, match=r"last\.pt"):
        method.predict(split.val, run)


# -- training --


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo", "yolo-world"])
def test_fit_and_predict_leave_a_whole_run(
    name: str,
    new_run: NewRun,
    split: Split,
    no_network: list[Any],
    no_weights: None,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    method, run = new_run(name, weights="auto", extra={})  # nothing can be fetched: from scratch
    _fit(method, run, split)
    assert no_network == []
    assert capsys.readouterr().out == ""

    assert (run.weights / "last.pt").is_file()
    assert run.facts["weights"] == "none"
    assert run.facts["parameters"] > 1e4
    assert run.facts["weights_source"] == "trained from scratch"
    assert run.facts["epochs_done"] == 2
    assert run.facts["precision"] in ("bfloat16", "float32")
    assert "pretrained could not be reached" in (run.path / "log.txt").read_text()
    rows = run.results()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 < float(row["loading_share"]) < 1 for row in rows)
    for column in ("train_box_loss", "train_cls_loss", "val_box_loss", "val_map50", "seconds"):
        assert all(np.isfinite(float(row[column])) for row in rows)
    assert any(run.plots.iterdir())

    reopened = Run.open(run.path)  # as another process would
    predictions = list(method_class(name)(method.settings).predict(split.val, reopened))
    assert [p.sample_id for p in predictions] == [s.id for s in split.val]
    for prediction in predictions:
        boxes = prediction.boxes
        assert prediction.score == (boxes.scores.max() if len(boxes) else 0.0)
        assert set(boxes.labels) <= set(split.dataset.classes)
        assert np.all(boxes.scores >= 0.001)
        assert np.all((boxes.xyxy >= 0) & (boxes.xyxy <= 128))
        assert np.all(boxes.xyxy[:, :2] < boxes.xyxy[:, 2:])
    for part, samples in (("val", split.val), ("test", split.test)):
        write_predictions(run.predictions, part, method.predict(samples, run))
    report = method.report(split, run)
    assert {"best_epoch", "val_map50_in_training", "false_alarms"} <= set(report)

    (tmp_path / "onnx").mkdir()
    exported = method.export(run, tmp_path / "onnx", split.val[:2])
    assert exported.max_difference <= exported.tolerance
    assert all((tmp_path / "onnx" / name).is_file() for name in exported.files)
    if name == "yolo-world":
        assert run.facts["prompts_source"] == NOT_CLIP
        assert load_bank(run.weights / "prompts.safetensors").phrases == split.dataset.classes
        assert "not CLIP" in report["forgetting"]["reason"]

    _fit(method, run, split)  # a finished training is not repeated
    assert run.results() == rows


@pytest.mark.slow
def test_equal_seeds_give_equal_predictions(new_run: NewRun, split: Split) -> None:
    found = []
    for name in ("a", "b"):
        method, run = new_run("yolo-world", run=name)
        _fit(method, run, split)
        found.append(list(method.predict(split.val, run)))
    for first, second in zip(*found, strict=True):
        assert first.score == second.score
        np.testing.assert_array_equal(first.boxes.xyxy, second.boxes.xyxy)


@pytest.mark.slow
def test_prompt_tuning_changes_the_prompts_and_nothing_else(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    import torch

    ultralytics_env.prepare()
    from ultralytics.nn.tasks import WorldModel

    base = WorldModel(network.model_yaml("yolo11n-world"), nc=3, verbose=False)
    path = tmp_path / "base.pt"
    torch.save({"model": base, "train_args": {}}, path)
    method, run = new_run("yolo-world", weights="pretrained", init=str(path), train="prompts")
    _fit(method, run, split)

    trained = checkpoint.load_network(run.weights / "last.pt").state_dict()
    before = base.half().float().state_dict()  # checkpoints are stored in half precision
    changed = [
        n
        for n, t in trained.items()
        if n not in before or not torch.equal(t.float(), before[n].float())
    ]
    assert changed == ["prompts"]
    classes = list(split.dataset.classes)
    tuned = load_bank(run.weights / "prompts.safetensors")
    start = load_bank(run.weights / "phrases.safetensors")
    assert tuned.source.startswith("tuned on")
    assert run.facts["prompts_source"] == tuned.source
    assert NOT_CLIP in tuned.source  # tuning gives no meaning to other words
    assert not np.allclose(tuned.of(classes), start.of(start.phrases)[: len(classes)], atol=1e-3)
    assert run.facts["tensors_copied"] == f"{len(before)} of {len(before) + 1}"

    # The bank alone serves the untouched base.
    from toolkit.methods.yolo.text_seam import answered_from

    base.eval()
    image = torch.rand(1, 3, 64, 64)
    with answered_from(tuned), torch.inference_mode():
        base.set_classes(classes)
        own = checkpoint.load_network(run.weights / "last.pt")
        own.set_classes(classes)
        np.testing.assert_allclose(base(image)[0], own(image)[0], atol=1e-4)


@pytest.mark.slow
def test_what_was_forgotten_of_classes_known_by_clip(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    import torch

    ultralytics_env.prepare()
    from ultralytics.nn.tasks import WorldModel

    base = WorldModel(network.model_yaml("yolo11n-world"), nc=3, verbose=False)
    torch.save({"model": base, "train_args": {}}, tmp_path / "base.pt")
    phrases = [p for name in split.dataset.classes for p in class_prompts(split)[name]]
    made = orthonormal_bank([*phrases, "cat", "dog"])
    stand_in = PromptBank(made.phrases, made.vectors, "CLIP ViT-B/32 (a stand-in)")
    stand_in.save(tmp_path / "clip.safetensors")
    data = write_training_data(
        split, tmp_path / "old", backgrounds="0", image_size=64, copy_paste=0, seed=0
    )
    old = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump(old | {"names": {0: "cat", 1: "dog", 2: phrases[0]}}))
    method, run = new_run(
        "yolo-world",
        weights="pretrained",
        init=str(tmp_path / "base.pt"),
        prompt_bank=str(tmp_path / "clip.safetensors"),
        old_data=str(data),
    )
    _fit(method, run, split)
    for part, samples in (("val", split.val), ("test", split.test)):
        write_predictions(run.predictions, part, method.predict(samples, run))
    found = method.report(split, run)["forgetting"]
    assert found["images"] == len(split.val)
    assert found["map50_change"] == found["map50_after"] - found["map50_before"]
    assert run.facts["prompts_source"] == stand_in.source


@pytest.mark.slow
def test_head_training_with_a_background_prompt(new_run: NewRun, split: Split) -> None:
    method, run = new_run("yolo-world", train="head", background="nothing", copy_paste=1)
    _fit(method, run, split)
    assert load_bank(run.weights / "prompts.safetensors").phrases == (
        *split.dataset.classes, "nothing",
    )  # fmt: skip
    for prediction in method.predict(split.val, run):
        assert "nothing" not in prediction.boxes.labels


@pytest.mark.slow
def test_frozen_layers_learn_from_the_given_epoch_on(new_run: NewRun, split: Split) -> None:
    weights = {}
    for name, freeze_epochs in (("always", 0), ("at first", 1)):
        method, run = new_run("yolo", run=name, freeze=10, freeze_epochs=freeze_epochs, epochs=3)
        _fit(method, run, split)
        weights[name] = checkpoint.load_network(run.weights / "last.pt").state_dict()
    first = "model.0.conv.weight"
    assert not np.array_equal(weights["always"][first], weights["at first"][first])


class _Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "damage_last"),
    [
        ("yolo", {}, False),
        ("yolo", {}, True),
        ("yolo-world", {}, False),
        ("yolo-world", {"train": "prompts"}, False),  # the prompts are in the checkpoint
    ],
)
def test_an_interrupted_training_goes_on(
    name: str,
    settings: dict[str, Any],
    damage_last: bool,
    new_run: NewRun,
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, run = new_run(name, epochs=3, **settings)
    add_result = Run.add_result

    def killed_in_the_second_epoch(self: Run, row: Any) -> None:
        add_result(self, row)
        if row["epoch"] == 2:
            raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(Run, "add_result", killed_in_the_second_epoch)
        with pytest.raises(_Killed):
            _fit(method, run, split)
    before = run.results()
    assert len(before) == 2
    last = run.weights / "last.pt"
    if damage_last:  # killed while it was written; the best epoch stays
        last.write_bytes(last.read_bytes()[:1000])

    again = Run.open(run.path)
    _fit(method, again, split)
    after = again.results()
    assert [row["epoch"] for row in after] == ["1", "2", "3"]
    assert after[0] == before[0]
    if not damage_last:
        assert after[1] == before[1]  # not trained twice
    log = (run.path / "log.txt").read_text()
    assert f"going on from {'best' if damage_last else 'last'}.pt" in log
    assert "Resuming training" in log
    assert len(list(method.predict(split.val, again))) == len(split.val)


def _stopped_after(epoch: int, method: Any, run: Run, split: Split) -> None:
    """Train until the end of an epoch, as if the process had been killed there."""
    add_result = Run.add_result

    def killed(self: Run, row: Any) -> None:
        add_result(self, row)
        if row["epoch"] == epoch:
            raise _Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "add_result", killed)
        with pytest.raises(_Killed):
            _fit(method, run, split)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "stopped_after"),
    [
        ("yolo", {"close_mosaic": 0, "optimizer": "SGD"}, 2),
        ("yolo", {"close_mosaic": 2}, 2),  # mosaic ends where it goes on
        ("yolo", {"close_mosaic": 2, "batch": 3, "copy_paste": 0}, 3),  # it had ended before
        ("yolo", {"batch": 2, "copy_paste": 0}, 1),
        ("yolo-world", {"tune_scale": True, "train": "prompts"}, 2),
        ("yolo-world", {"head_lr_factor": 3.0}, 2),  # the optimiser has groups of its own
    ],
)
def test_a_stopped_training_ends_as_one_that_was_not(
    name: str, settings: dict[str, Any], stopped_after: int, new_run: NewRun, split: Split
) -> None:
    method, whole = new_run(name, run="whole", epochs=4, **settings)
    _fit(method, whole, split)
    method, stopped = new_run(name, run="stopped", epochs=4, **settings)
    _stopped_after(stopped_after, method, stopped, split)
    again = Run.open(stopped.path)
    _fit(method, again, split)

    times = ("seconds", "loading_share")
    for row, expected in zip(again.results(), whole.results(), strict=True):
        assert {k: v for k, v in row.items() if k not in times} == {
            k: v for k, v in expected.items() if k not in times
        }
    found, expected = (
        checkpoint.load_network(run.weights / "last.pt").state_dict() for run in (again, whole)
    )
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key].numpy(), tensor.numpy(), err_msg=key)
    assert not (again.weights / "resume.pt").exists()


@pytest.mark.slow
def test_epoch_optimiser_and_averages_are_those_of_the_stopped_training(
    new_run: NewRun, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from toolkit.methods.yolo import resuming

    method, run = new_run("yolo", epochs=3)
    _stopped_after(2, method, run, split)
    state = torch.load(run.weights / "resume.pt", weights_only=True)
    assert state["epoch"] == 1  # the second
    seen: dict[str, Any] = {}
    restore = resuming.restore_state

    def look(trainer: Any) -> None:
        restore(trainer)
        seen.update(
            epoch=trainer.start_epoch,
            model=trainer.model.state_dict(),
            averaged=trainer.ema.ema.state_dict(),
            optimizer=trainer.optimizer.state_dict()["state"],
            updates=trainer.ema.updates,
        )
        raise _Killed

    monkeypatch.setattr("toolkit.methods.yolo.trainers.restore_state", look)
    with pytest.raises(_Killed):
        _fit(method, Run.open(run.path), split)
    assert seen["epoch"] == 2
    assert seen["updates"] > 0
    live = {key.removeprefix("module."): tensor for key, tensor in seen["model"].items()}
    for key, tensor in state["model"].items():
        assert torch.equal(live[key], tensor), key
    for key, tensor in state["averaged"].items():
        assert torch.equal(seen["averaged"][key], tensor), key
    assert seen["optimizer"]
    for index, moments in state["optimizer"]["state"].items():
        assert moments["exp_avg"].dtype == torch.float32
        assert torch.equal(seen["optimizer"][index]["exp_avg"], moments["exp_avg"])


@pytest.mark.slow
def test_without_the_exact_state_the_training_still_goes_on(new_run: NewRun, split: Split) -> None:
    method, run = new_run("yolo", epochs=3)
    _stopped_after(2, method, run, split)
    (run.weights / "resume.pt").unlink()
    _fit(method, run, split)
    assert [row["epoch"] for row in run.results()] == ["1", "2", "3"]
    assert "half precision" in (run.path / "log.txt").read_text()
