"""A whole line: drift, images worth a label, and the same state after a start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.line.conftest import eventually, png
from toolkit.data.layouts import load_dataset
from toolkit.decisions.drift import drift_test
from toolkit.decisions.outcomes import Outcome
from toolkit.line.answers import Answer, NamedModel
from toolkit.line.collected import Collected
from toolkit.line.station import Station

Make = Callable[..., Station]


def feed(station: Station, levels: np.ndarray, start: int = 0) -> None:
    for number, level in enumerate(levels, start):
        data = png(float(level), seed=number)
        answer = station.answer(data, "a.png")
        station.record(answer, image=f"{number}.png", data=data, sha256=f"{number:064x}")


def test_drift_is_tested_image_by_image_and_over_a_start(
    make_station: Make, level: float, messages: list[str], tmp_path: Path, named: NamedModel
) -> None:
    sink = f"file:{tmp_path}/events.jsonl"
    station = make_station(sink)
    drifting = level + np.random.default_rng(0).normal(20, 2, 30)
    feed(station, drifting[:10])
    station.close()
    again = make_station(sink)
    assert again.drift is not None
    assert again.drift.count == 10
    feed(again, drifting[10:], 10)
    scores = again.ledger.scores(named.name)
    card = named.model.calibration
    assert card is not None
    wanted = drift_test(scores, card.good_scores)
    assert again.drift.alarm_at == wanted.alarm_at is not None
    assert again.drift.log10_evidence == pytest.approx(wanted.log10_evidence[-1])
    eventually(lambda: again.ledger.stats()["waiting"] == {})
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines].count("drift") == 1
    assert sum("drift: alarm" in line for line in messages) == 1
    live = again.live()
    assert live["drift"]["series"][-1] == (30, pytest.approx(wanted.log10_evidence[-1], abs=1e-3))
    assert live["answers"] == 30
    assert sum(live["shares"].values()) == pytest.approx(1)


def test_images_worth_a_label_are_a_data_set(tmp_path: Path) -> None:
    collected = Collected(tmp_path / "to-label", capacity=5)
    rng = np.random.default_rng(0)
    for number, score in enumerate(rng.uniform(0, 10, 600)):
        decision = Outcome.NOK if score >= 8 else Outcome.OK
        answer = Answer(decision, float(score), 8.0, None, "", "m")
        collected.offer(answer, png(100, seed=number), f"{number:064d}"[::-1], ".png")
    review = Answer(Outcome.REVIEW, 7.0, 8.0, None, "", "m")
    kept = collected.offer(review, png(1), "a" * 64, ".png")
    assert kept is not None
    assert collected.offer(review, png(1), "a" * 64, ".png") is None  # is there already
    data = load_dataset(tmp_path / "to-label")
    names = [sample.image.name for sample in data]
    assert kept.name in names
    assert sum("borderline" in name for name in names) == 5
    assert sum("surprising-NOK" in name for name in names) == 5
