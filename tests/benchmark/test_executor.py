"""The local executor: in order, one by one, a task's wrong input is its own."""

from __future__ import annotations

import pytest

from toolkit.benchmark.executor import LocalExecutor, Outcome
from toolkit.errors import DataError, RunError


def test_outcomes_come_in_order_with_their_tasks() -> None:
    outcomes = list(LocalExecutor().run([3, 1, 2], lambda n: n * 10))
    assert outcomes == [Outcome(3, 30), Outcome(1, 10), Outcome(2, 20)]


def test_no_tasks() -> None:
    assert list(LocalExecutor().run([], lambda n: n)) == []


def test_each_outcome_comes_before_the_next_task_begins() -> None:
    begun: list[int] = []
    running = LocalExecutor().run([1, 2, 3], begun.append)
    assert begun == []
    next(running)
    assert begun == [1]
    next(running)
    assert begun == [1, 2]


def test_wrong_input_ends_one_task_only() -> None:
    def work(name: str) -> str:
        if name == "bad":
            raise DataError("bad: mend it")
        if name == "worse":
            raise RunError("worse: mend it")
        return name

    outcomes = list(LocalExecutor().run(["a", "bad", "b", "worse"], work))
    assert [o.result for o in outcomes] == ["a", None, "b", None]
    assert [type(o.error) for o in outcomes] == [type(None), DataError, type(None), RunError]
    assert str(outcomes[1].error) == "bad: mend it"
    assert outcomes[1].task == "bad"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, MemoryError])
def test_a_fault_of_the_program_is_not_swallowed(error: type[BaseException]) -> None:
    def work(_: int) -> None:
        raise error

    with pytest.raises(error):
        list(LocalExecutor().run([1], work))
