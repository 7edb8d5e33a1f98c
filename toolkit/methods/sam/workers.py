"""Threads that work side by side, each with a share of torch's threads.

Layers of SAM are small: two threads that share one layer wait for each other most of the time,
while two that work on other images, or on other prompts, are nearly twice as fast as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def worker_count(device: torch.device) -> int:
    """Return how many workers are of use: torch's threads on a processor, one elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give `count` threads, each with its share of torch's, as the caller's has meanwhile.

    What is not begun when the block is left is not done, so that an error does not wait for it.
    """
    threads = torch.get_num_threads()
    share = max(threads // count, 1)
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(share,))
    torch.set_num_threads(share)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
