"""The worker: answers in order, and NOK for whatever fails, comes late, or is too large."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from tests.line.conftest import eventually, png
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import RunError
from toolkit.line.answers import Answer, NamedModel
from toolkit.line.worker import BusyError, Worker


class Slow:
    """A model that waits for a signal, and fails where a test asks for it."""

    def __init__(self, model: Any, batch_size: int = 1, *, parallel: bool = False) -> None:
        self.model, self.batch_size, self.parallel = model, batch_size, parallel
        self.gate, self.fail = threading.Event(), ""
        self.asked: list[int] = []
        self.batches: list[int] = []
        self.gate.set()

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        self.asked.append(len(arrays))
        self.gate.wait(10)
        self.batches.append(len(arrays))
        if self.fail == "all" or (self.fail and any(int(a.mean()) > 240 for a in arrays)):
            raise RunError("weights damaged")
        return list(self.model(list(arrays)))


@pytest.mark.parametrize(
    ("offset", "decision"), [(0, Outcome.OK), (7, Outcome.REVIEW), (30, Outcome.NOK)]
)
def test_answers_are_those_of_the_model(
    named: NamedModel, level: float, offset: float, decision: Outcome
) -> None:
    worker = Worker(named)
    answer = worker.submit(png(level + offset), "a.png").result(5)
    worker.close()
    assert (answer.decision, answer.reason) == (decision, "")
    assert answer.score == pytest.approx(abs(offset), abs=0.2)
    assert answer.p_value is not None
    assert answer.model == named.name
    assert answer.latency_ms > 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable"),
        (b"no image", "unreadable"),
        (png(9)[:-30], "unreadable"),
        (png(9, size=120), "14400 pixels are more|120x120 pixels are more"),
    ],
)
def test_what_cannot_be_read_is_nok(named: NamedModel, data: bytes, reason: str) -> None:
    worker = Worker(named, max_pixels=10_000)
    answer = worker.submit(data, "a.png").result(5)
    worker.close()
    assert answer.decision is Outcome.NOK
    assert answer.score is None
    assert any(part in answer.reason for part in reason.split("|"))


def test_a_failure_is_nok_and_spares_the_others_of_its_batch(
    named: NamedModel, level: float
) -> None:
    slow = Slow(named.model, batch_size=4)
    worker = Worker(NamedModel(slow, "slow"))  # type: ignore[arg-type]
    slow.gate.clear()
    first = worker.submit(png(level), "first.png")
    eventually(lambda: slow.asked == [1])  # so that it is in no batch with the others
    slow.fail = "bright"
    futures = [worker.submit(png(v), "x.png") for v in (level, 250, level)]
    eventually(lambda: worker._decoded.qsize() == 2)  # the other waits for the model
    slow.gate.set()
    answers = [f.result(5) for f in (first, *futures)]
    worker.close()
    assert [a.decision.value for a in answers] == ["OK", "OK", "NOK", "OK"]
    assert answers[2].reason == "not predicted: weights damaged"
    assert max(slow.batches) > 1


@pytest.mark.parametrize(("parallel", "together"), [(True, 2), (False, 1)])
def test_two_images_are_asked_at_once_where_the_model_allows_it(
    named: NamedModel, level: float, parallel: bool, together: int
) -> None:
    slow = Slow(named.model, parallel=parallel)
    worker = Worker(NamedModel(slow, "slow"))  # type: ignore[arg-type]
    slow.gate.clear()
    futures = [worker.submit(png(level + offset), "x.png") for offset in (0, 40, 0, 40)]
    eventually(lambda: len(slow.asked) == together)
    threading.Event().wait(0.1)
    assert len(slow.asked) == together
    slow.gate.set()
    assert [f.result(5).decision.value for f in futures] == ["OK", "NOK", "OK", "NOK"]
    worker.close()


def test_a_late_answer_is_nok_and_never_ok(named: NamedModel, level: float) -> None:
    slow = Slow(named.model)
    worker = Worker(NamedModel(slow, "slow"), timeout=0.2)  # type: ignore[arg-type]
    slow.gate.clear()
    futures = [worker.submit(png(level), "x.png") for _ in range(3)]
    threading.Event().wait(0.4)
    assert not worker.alive
    slow.gate.set()
    late = [f.result(5) for f in futures[1:]]  # the first was in the model all the time
    assert {a.decision for a in late} == {Outcome.NOK}
    assert {a.reason for a in late} == {"no answer within 0.2 s"}
    assert worker.submit(png(level), "x.png").result(5).decision is Outcome.OK
    assert worker.alive
    worker.close()


def test_a_full_queue_refuses(named: NamedModel, level: float) -> None:
    slow = Slow(named.model)
    worker = Worker(NamedModel(slow, "slow"), max_waiting=2)  # type: ignore[arg-type]
    slow.gate.clear()
    futures = []
    for _ in range(20):
        with suppress(BusyError):
            futures.append(worker.submit(png(level), "x.png"))
    assert 1 <= len(futures) <= 8
    with pytest.raises(BusyError, match="too many images"):
        worker.submit(png(level), "x.png")
    slow.gate.set()
    assert {f.result(5).decision for f in futures} == {Outcome.OK}
    worker.close()
    with pytest.raises(BusyError, match="stopped"):
        worker.submit(png(level), "x.png")


def test_a_swap_and_a_shadow(named: NamedModel, level: float) -> None:
    differences: list[tuple[Answer, Answer]] = []
    strict = Slow(named.model)
    strict.fail = "all"
    worker = Worker(named, on_shadow=lambda a, b: differences.append((a, b)))
    worker.shadow = NamedModel(strict, "strict")  # type: ignore[arg-type]
    assert worker.submit(png(level), "x.png").result(5).decision is Outcome.OK
    worker.swap(worker.shadow)
    worker.shadow = None
    swapped = worker.submit(png(level), "x.png").result(5)
    worker.close()
    assert (swapped.decision, swapped.model) == (Outcome.NOK, "strict")
    assert [(a.decision.value, b.decision.value) for a, b in differences] == [("OK", "NOK")]
