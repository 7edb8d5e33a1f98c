from __future__ import annotations

import threading
import time

import pytest
import torch

from toolkit.methods.sam.workers import worker_count, workers


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "count", "share"),
    [
        (4, 2, 2),
        (2, 2, 1),
        (1, 1, 1),
        (2, 1, 2),  # one worker has all
        (1, 3, 1),  # more workers than threads: none goes without
    ],
)
def test_each_worker_has_its_share_of_the_threads(threads: int, count: int, share: int) -> None:
    torch.set_num_threads(threads)
    with workers(count) as pool:
        assert torch.get_num_threads() == share
        assert {pool.submit(torch.get_num_threads).result() for _ in range(count)} == {share}
    assert torch.get_num_threads() == threads


def test_workers_work_side_by_side() -> None:
    barrier = threading.Barrier(2, timeout=20)  # breaks unless both are there at once
    with workers(2) as pool:
        assert sorted(pool.map(lambda _: barrier.wait(), range(2))) == [0, 1]


def test_after_an_error_nothing_more_is_begun() -> None:
    torch.set_num_threads(1)
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    def interrupted() -> None:
        with workers(1) as pool:
            for number in range(50):
                pool.submit(work, number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 10
    assert torch.get_num_threads() == 1


def test_only_a_processor_is_shared() -> None:
    torch.set_num_threads(3)
    assert worker_count(torch.device("cpu")) == 3
    assert worker_count(torch.device("cuda")) == 1
