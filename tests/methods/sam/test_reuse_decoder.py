"""A run that predicts with another run's decoder takes it only where it has seen no test image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import settings_dict
from toolkit.errors import ConfigError
from toolkit.files import write_json
from toolkit.methods.sam.model import reuse_decoder, reused_report
from toolkit.methods.sam.settings import SamSettings
from toolkit.runs.run import Run

SETTINGS = SamSettings(epochs=3)
SPLIT = {"hash": "h", "fold": 1, "train": ["a.png", "b.png"]}
NAME = "decoder.safetensors"
Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(settings: SamSettings = SETTINGS, **other: Any) -> Run:
        values = {"method": "sam", "split": SPLIT, "data": {}} | other
        return Run.create(tmp_path, settings=settings_dict(settings), **values)

    return made


@pytest.fixture
def source(make: Make) -> Run:
    run = make(name="source")
    (run.weights / NAME).write_bytes(b"decoder")
    (run.weights / "initial.safetensors").write_bytes(b"initial")
    run.update_metadata(
        weights="mobile-sam", parameters=9, encoder_sha256="e", fit_seconds=120.0, labels="its own"
    )
    write_json(run.path / "report.json", {"prompted": {"box": 0.8}})
    return run


def test_without_a_decoder_run_nothing_is_copied(make: Make) -> None:
    assert not reuse_decoder(SETTINGS, make())
    assert reused_report(SETTINGS, make()) is None


def test_the_decoder_and_what_it_cost(make: Make, source: Run) -> None:
    run = make(inputs={"decoder_run": str(source.path)})
    assert reuse_decoder(SETTINGS, run)
    assert (run.weights / NAME).read_bytes() == b"decoder"
    assert (run.weights / "initial.safetensors").read_bytes() == b"initial"
    assert run.metadata == {
        "weights": "mobile-sam",
        "parameters": 9,
        "encoder_sha256": "e",
        "fit_seconds": 120.0,
    }


def test_resumed_the_cost_is_not_counted_twice(make: Make, source: Run) -> None:
    run = make(inputs={"decoder_run": str(source.path)})
    reuse_decoder(SETTINGS, run)
    run.update_metadata(fit_seconds=121.0)
    assert reuse_decoder(SETTINGS, run)
    assert run.metadata["fit_seconds"] == 121.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": {**SPLIT, "fold": 0}}, "not a run of sam on the same fold"),
        ({"split": {**SPLIT, "hash": "other"}}, "not a run of sam on the same fold"),
        # the same fold with fewer labelled defects
        ({"split": {**SPLIT, "train": ["a.png"]}}, "not a run of sam on the same fold"),
        # run.json would describe another training
        ({"settings": replace(SETTINGS, lr=1e-3)}, "trained with another lr; give --lr 0.0002"),
    ],
)
def test_refused(make: Make, source: Run, change: dict[str, Any], says: str) -> None:
    settings = change.pop("settings", SETTINGS)
    run = make(settings, inputs={"decoder_run": str(source.path)}, **change)
    with pytest.raises(ConfigError, match=says) as found:
        reuse_decoder(settings, run)
    assert "\n" not in str(found.value)
    assert not (run.weights / NAME).exists()


def test_a_run_of_another_method_is_refused(make: Make) -> None:
    run = make(inputs={"decoder_run": str(make(method="yolo").path)})
    with pytest.raises(ConfigError, match="not a run of sam"):
        reuse_decoder(SETTINGS, run)


def test_other_prediction_settings_are_allowed_but_figures_are_computed_again(
    make: Make, source: Run
) -> None:
    once = replace(SETTINGS, tta=True)
    run = make(once, inputs={"decoder_run": str(source.path)})
    assert reuse_decoder(once, run)
    assert reused_report(once, run) is None
    same = make(inputs={"decoder_run": str(source.path)})
    assert reused_report(SETTINGS, same) == {"prompted": {"box": 0.8}}
