"""A run that answers with another run's decoder takes it only where no test image was learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import settings_dict
from toolkit.errors import ConfigError
from toolkit.files import write_json
from toolkit.methods.sam.borrow import borrow_decoder, borrowed_report
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
def lender(make: Make) -> Run:
    run = make(name="lender")
    (run.weights / NAME).write_bytes(b"decoder")
    run.update_metadata(weights="mobile-sam", parameters=9, fit_seconds=120.0, labels="its own")
    write_json(run.path / "report.json", {"prompted": {"box": 0.8}})
    return run


def test_nothing_is_borrowed_from_nobody(make: Make) -> None:
    assert not borrow_decoder(SETTINGS, make(), NAME)
    assert borrowed_report(SETTINGS, make()) is None


def test_the_decoder_and_what_it_cost(make: Make, lender: Run) -> None:
    run = make(inputs={"decoder_run": str(lender.path)})
    assert borrow_decoder(SETTINGS, run, NAME)
    assert (run.weights / NAME).read_bytes() == b"decoder"
    assert run.metadata == {"weights": "mobile-sam", "parameters": 9, "fit_seconds": 120.0}


def test_resumed_the_cost_is_not_counted_twice(make: Make, lender: Run) -> None:
    run = make(inputs={"decoder_run": str(lender.path)})
    borrow_decoder(SETTINGS, run, NAME)
    run.update_metadata(fit_seconds=121.0)
    assert borrow_decoder(SETTINGS, run, NAME)
    assert run.metadata["fit_seconds"] == 121.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": {**SPLIT, "fold": 0}}, "not a run of sam on the same fold"),
        ({"split": {**SPLIT, "hash": "other"}}, "not a run of sam on the same fold"),
        # the same fold with fewer labelled defects
        ({"split": {**SPLIT, "train": ["a.png"]}}, "not a run of sam on the same fold"),
        # run.json would tell of a training that was not
        ({"settings": replace(SETTINGS, lr=1e-3)}, "trained with another lr; give --lr 0.0002"),
    ],
)
def test_refused(make: Make, lender: Run, change: dict[str, Any], says: str) -> None:
    settings = change.pop("settings", SETTINGS)
    run = make(settings, inputs={"decoder_run": str(lender.path)}, **change)
    with pytest.raises(ConfigError, match=says) as found:
        borrow_decoder(settings, run, NAME)
    assert "\n" not in str(found.value)
    assert not (run.weights / NAME).exists()


def test_a_run_of_another_method_is_refused(make: Make) -> None:
    run = make(inputs={"decoder_run": str(make(method="yolo").path)})
    with pytest.raises(ConfigError, match="not a run of sam"):
        borrow_decoder(SETTINGS, run, NAME)


def test_answering_in_another_way_is_allowed_but_figures_are_made_anew(
    make: Make, lender: Run
) -> None:
    once = replace(SETTINGS, looks=1)
    run = make(once, inputs={"decoder_run": str(lender.path)})
    assert borrow_decoder(once, run, NAME)
    assert borrowed_report(once, run) is None
    same = make(inputs={"decoder_run": str(lender.path)})
    assert borrowed_report(SETTINGS, same) == {"prompted": {"box": 0.8}}
