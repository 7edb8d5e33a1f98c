"""Executors: every outcome with its task, needs first, errors of one task do not end the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from toolkit.benchmarking.executors import LocalExecutor, Outcome, ProcessExecutor
from toolkit.errors import DataError, RunError


def _tenfold(n: int) -> int:
    return n * 10


def _fail(name: str) -> str:
    if name == "bad":
        raise DataError("bad: mend it")
    if name == "fault":
        raise ZeroDivisionError
    if name == "killed":
        os._exit(9)
    return name


class _Together:
    """Leaves a mark and waits until the other one has left its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> bool:
        (self.folder / name).touch()
        for _ in range(600):
            if len(list(self.folder.iterdir())) == 2:
                return True
            time.sleep(0.05)
        return False


class _Process:
    """Tells the process and its threads, when the other process has come too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, _: int) -> tuple[int, str]:
        _Together(self.folder)(str(os.getpid()))
        return os.getpid(), os.environ["OMP_NUM_THREADS"]


class _Marks:
    """Tells which marks were there when it began, and leaves its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> set[str]:
        there = {path.name for path in self.folder.iterdir()}
        time.sleep(0.1)
        (self.folder / name).touch()
        return there


def test_every_task_once_with_its_own_result() -> None:
    begun: list[int] = []
    outcomes = list(ProcessExecutor(2).run([3, 1, 2], _tenfold, begun=begun.append))
    assert {o.task: o.result for o in outcomes} == {3: 30, 1: 10, 2: 20}
    assert begun == [3, 1, 2]


def test_no_tasks() -> None:
    assert list(ProcessExecutor(2).run([], _tenfold)) == []


def test_two_at_once(tmp_path: Path) -> None:
    outcomes = list(ProcessExecutor(2).run(["a", "b"], _Together(tmp_path)))
    assert [o.result for o in outcomes] == [True, True]


def test_other_processes_with_their_share_of_threads(tmp_path: Path) -> None:
    outcomes = list(ProcessExecutor(2, threads=3).run(list(range(4)), _Process(tmp_path)))
    processes = {o.result[0] for o in outcomes if o.result}
    assert os.getpid() not in processes
    assert len(processes) == 2
    assert {o.result[1] for o in outcomes if o.result} == {"3"}


def test_what_is_needed_has_ended_first(tmp_path: Path) -> None:
    needed: dict[str, list[str]] = {"a": [], "on-a": ["a"], "b": [], "on-both": ["on-a", "b"]}
    tasks = list(needed)
    by_name = dict(zip(tasks, tasks, strict=True))
    outcomes = list(
        ProcessExecutor(2).run(
            tasks, _Marks(tmp_path), needs=lambda name: [by_name[n] for n in needed[name]]
        )
    )
    there = {o.task: o.result for o in outcomes}
    assert there["on-a"] is not None
    assert "a" in there["on-a"]
    assert there["on-both"] is not None
    assert {"a", "on-a", "b"} <= there["on-both"]


def test_what_is_needed_may_have_failed() -> None:
    outcomes = list(
        ProcessExecutor(2).run(
            ["bad", "on"], _fail, needs=lambda name: ["bad"] if name == "on" else []
        )
    )
    assert [(o.task, o.result, str(o.error)) for o in outcomes] == [
        ("bad", None, "bad: mend it"),
        ("on", "on", "None"),
    ]


def test_a_fault_of_the_program_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        list(ProcessExecutor(2).run(["a", "fault", "b"], _fail))


def test_a_process_that_dies_is_told_in_one_line() -> None:
    with pytest.raises(RunError, match=r"was killed.*fewer --jobs"):
        list(ProcessExecutor(1).run(["a", "killed", "b"], _fail))


def test_at_least_one_job() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ProcessExecutor(0)


def test_outcomes_come_in_order_with_their_tasks() -> None:
    outcomes = list(LocalExecutor().run([3, 1, 2], lambda n: n * 10))
    assert outcomes == [Outcome(3, 30), Outcome(1, 10), Outcome(2, 20)]


def test_no_tasks_in_this_process() -> None:
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
def test_a_fault_of_the_program_ends_the_local_executor(error: type[BaseException]) -> None:
    def work(_: int) -> None:
        raise error

    with pytest.raises(error):
        list(LocalExecutor().run([1], work))
