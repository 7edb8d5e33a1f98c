"""A training that was killed goes on, and ends as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.methods.yolo.small import Killed, NewRun, fit, stopped_after
from toolkit import ultralytics_env
from toolkit.data.dataset_cards import class_phrases
from toolkit.data.splits import Split
from toolkit.errors import ConfigError
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.yolo import network
from toolkit.methods.yolo.text_embeddings import (
    TextEmbeddings,
    load_text_embeddings,
    orthonormal_embeddings,
)
from toolkit.runs.run import Run


@pytest.mark.slow
def test_a_training_killed_while_its_last_checkpoint_was_written(
    new_run: NewRun, split: Split
) -> None:
    method, run = new_run("yolo", epochs=3)
    stopped_after(2, method, run, split)
    before = run.results()
    assert len(before) == 2
    last = run.weights / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])  # the best epoch stays

    again = Run.open(run.path)
    fit(method, again, split)
    after = again.results()
    assert [row["epoch"] for row in after] == ["1", "2", "3"]
    assert after[0] == before[0]
    log = (run.path / "log.txt").read_text()
    assert "continuing from best.pt" in log
    assert "Resuming training" in log
    assert len(list(predict_samples(method.load(again), split.val))) == len(split.val)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "epoch", "epochs"),
    [
        ("yolo", {"mosaic": 1.0, "close_mosaic": 0, "optimizer": "SGD"}, 2, 3),
        ("yolo", {"mosaic": 1.0, "close_mosaic": 1}, 2, 3),  # mosaic ends where it goes on
        # It had ended before.
        ("yolo", {"mosaic": 1.0, "close_mosaic": 2, "batch": 3, "copy_paste_per_image": 0}, 2, 3),
        ("yolo", {"batch": 2, "copy_paste_per_image": 0}, 1, 3),
        # The prompts are in the checkpoint.
        ("yolo-world", {"train_logit_scale": True, "trainable": "prompts"}, 2, 3),
        ("yolo-world", {"head_lr_mult": 3.0}, 1, 2),  # the optimiser has groups of its own
    ],
)
def test_a_stopped_training_ends_as_one_that_was_not(
    name: str, settings: dict[str, Any], epoch: int, epochs: int, new_run: NewRun, split: Split
) -> None:
    method, whole = new_run(name, run="whole", epochs=epochs, **settings)
    fit(method, whole, split)
    method, stopped = new_run(name, run="stopped", epochs=epochs, **settings)
    stopped_after(epoch, method, stopped, split)
    before = stopped.results()
    assert len(before) == epoch
    again = Run.open(stopped.path)
    fit(method, again, split)
    assert again.results()[:epoch] == before  # not trained twice
    log = (again.path / "log.txt").read_text()
    assert "continuing from last.pt" in log
    assert "Resuming training" in log
    assert len(list(predict_samples(method.load(again), split.val))) == len(split.val)

    times = ("seconds", "loading_share")
    for row, expected in zip(again.results(), whole.results(), strict=True):
        assert {k: v for k, v in row.items() if k not in times} == {
            k: v for k, v in expected.items() if k not in times
        }
    found, expected = (
        network.load_network(run.weights / "last.pt").state_dict() for run in (again, whole)
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

    from toolkit.methods.yolo import resume

    method, run = new_run("yolo", epochs=3)
    stopped_after(2, method, run, split)
    state = torch.load(run.weights / "resume.pt", weights_only=True)
    assert state["epoch"] == 1  # the second
    seen: dict[str, Any] = {}
    restore = resume.restore_state

    def look(trainer: Any) -> None:
        restore(trainer)
        seen.update(
            epoch=trainer.start_epoch,
            model=trainer.model.state_dict(),
            averaged=trainer.ema.ema.state_dict(),
            optimizer=trainer.optimizer.state_dict()["state"],
            updates=trainer.ema.updates,
        )
        raise Killed

    monkeypatch.setattr("toolkit.methods.yolo.trainer.restore_state", look)
    with pytest.raises(Killed):
        fit(method, Run.open(run.path), split)
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
@pytest.mark.parametrize(
    ("name", "settings", "killed_in", "damage_last", "epochs"),
    [
        ("yolo", {}, "strip", False, 2),
        ("yolo", {}, "row", False, 2),  # killed before the last epoch stood in the results
        ("yolo", {"patience": 1, "epochs": 4}, "strip", False, 2),  # the second is no better
        ("yolo", {}, "strip", True, 2),  # killed while the checkpoint was written anew
        ("yolo-world", {"trainable": "prompts"}, "strip", False, 2),
    ],
)
def test_a_training_killed_after_its_last_epoch_is_brought_to_its_end(
    name: str,
    settings: dict[str, Any],
    killed_in: str,
    damage_last: bool,
    epochs: int,
    new_run: NewRun,
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ultralytics_env.prepare()
    from ultralytics.engine import trainer as engine
    from ultralytics.nn.tasks import torch_safe_load

    method, run = new_run(name, **settings)
    add_result, validate = Run.add_result, engine.BaseTrainer.validate

    def kill(*args: Any, **kwargs: Any) -> None:
        raise Killed

    def kill_before_the_row(self: Run, row: Any) -> None:
        if row["epoch"] == epochs:
            raise Killed
        add_result(self, row)

    def equally_good(self: Any) -> Any:
        metrics, _ = validate(self)
        self.best_fitness = 0.5  # so each epoch is also written as the best
        return metrics, self.best_fitness

    with monkeypatch.context() as patched:
        patched.setattr(engine.BaseTrainer, "validate", equally_good)
        if killed_in == "strip":
            patched.setattr(engine, "strip_optimizer", kill)
        else:
            patched.setattr(Run, "add_result", kill_before_the_row)
        with pytest.raises(Killed):
            fit(method, run, split)
    last = run.weights / "last.pt"
    trained = network.load_network(last).state_dict()
    if damage_last:
        last.write_bytes(last.read_bytes()[:1000])

    again = Run.open(run.path)
    fit(method, again, split)
    assert "had ended before it was stopped" in (run.path / "log.txt").read_text()
    assert [row["epoch"] for row in again.results()] == [str(n + 1) for n in range(epochs)]
    first, final = again.results()[0], again.results()[-1]
    empty = {"seconds", "loading_share"} if killed_in == "row" else set()
    assert {key for key in first if not final[key]} == empty
    assert again.metadata["epochs_done"] == epochs
    assert again.metadata["parameters"] > 1e4
    assert not (run.weights / "resume.pt").exists()
    found = network.load_network(last).state_dict()
    assert all(np.array_equal(found[key], tensor) for key, tensor in trained.items())
    assert len(list(predict_samples(method.load(again), split.val))) == len(split.val)
    for file in ("last.pt", "best.pt"):
        assert torch_safe_load(run.weights / file)[0]["optimizer"] is None
    if name == "yolo-world":
        assert again.metadata["prompts_source"].startswith("tuned on")
    fit(method, again, split)  # and now it is finished
    assert "training was finished before" in (run.path / "log.txt").read_text()


@pytest.mark.slow
def test_a_training_goes_on_with_the_prompts_it_began_with(
    new_run: NewRun, split: Split, tmp_path: Path
) -> None:
    file = tmp_path / "bank.safetensors"
    phrases = [phrase for group in class_phrases(split.dataset).values() for phrase in group]
    orthonormal_embeddings(phrases).save(file)
    method, run = new_run("yolo-world", text_embeddings=str(file))
    stopped_after(1, method, run, split)
    kept = load_text_embeddings(run.weights / "prompts.safetensors")
    orthonormal_embeddings(phrases, seed=1).save(file)  # another of the same phrases

    seen = []

    def look(self: Any, text: Any) -> Any:
        seen.append(self)
        return of(self, text)

    of = TextEmbeddings.of
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TextEmbeddings, "of", look)
        fit(method, Run.open(run.path), split)
    assert seen
    for bank in (*seen, load_text_embeddings(run.weights / "prompts.safetensors")):
        np.testing.assert_array_equal(bank.vectors, kept.vectors)
    file.unlink()
    stopped_method, again = new_run("yolo-world", run="again", text_embeddings=str(file))
    with pytest.raises(ConfigError, match="no such text embeddings"):  # only the beginning needs it
        fit(stopped_method, again, split)


@pytest.mark.slow
def test_without_the_exact_state_the_training_still_goes_on(new_run: NewRun, split: Split) -> None:
    method, run = new_run("yolo", epochs=3)
    stopped_after(2, method, run, split)
    (run.weights / "resume.pt").unlink()
    fit(method, run, split)
    assert [row["epoch"] for row in run.results()] == ["1", "2", "3"]
    assert "half precision" in (run.path / "log.txt").read_text()
