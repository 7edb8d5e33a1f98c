"""Training of the decoder by several processes of one machine, through `torch.distributed`.

Each process computes some prompts of every batch; gradients are added up over all of them, so that
all take the same step, and the training is that of one process, but for the order of additions.
Encodings are divided by the view that they are of: a process encodes its own, and keeps its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, distributed

from toolkit.errors import ConfigError, RunError

if TYPE_CHECKING:
    from toolkit.data.types import Sample
    from toolkit.methods.sam.targets import Target
    from toolkit.methods.sam.tta import View

T = TypeVar("T")

_BEGIN_SECONDS = 300
_WAIT_HOURS = 24  # for a process that encodes or validates; one that has ended is noticed at once
_END_SECONDS = 60


@dataclass(frozen=True)
class Shards:
    """Which of the training processes this one is.

    Attributes:
        rank: its number; process 0 validates and writes.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def owns(self, sample: Sample, view: View) -> bool:
        """Return whether the encoding of a view of an image is this process's."""
        return _owner(sample, view, self.count) == self.rank

    def rows(self, targets: Sequence[Target]) -> list[int]:
        """Return which targets of a batch this process computes.

        Its own, as far as no process has more than its share; what is left goes to those with the
        fewest.
        """
        most = -(-len(targets) // self.count)
        rows: list[list[int]] = [[] for _ in range(self.count)]
        left: list[int] = []
        for i, target in enumerate(targets):
            own = rows[_owner(target.sample, target.view, self.count)]
            (own if len(own) < most else left).append(i)
        for i in left:
            min(rows, key=len).append(i)
        return sorted(rows[self.rank])

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the values of all processes.

        Raises:
            RunError: another process has ended.
        """
        if self.count == 1:
            return values
        total = values.detach().cpu().contiguous().clone()
        with _noticing():
            distributed.all_reduce(total)
        return total.to(values.device)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients of the parameters by their sums over all processes."""
        if self.count == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        total = self.sum(torch.cat([used, *(one.cpu() for one in flat)]))
        start = len(parameters)
        for tensor, some in zip(parameters, total[:start].tolist(), strict=True):
            end = start + tensor.numel()
            if some:  # else no process has one, and the optimiser leaves the parameter alone
                tensor.grad = torch.empty_like(tensor).copy_(total[start:end].view(tensor.shape))
            start = end

    def of_first(self, values: Sequence[float]) -> list[float]:
        """Return the numbers of process 0, in all of them."""
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        with _noticing():
            distributed.broadcast(shared, 0)
        return [float(value) for value in shared]

    def own_part(self, views: Iterable[tuple[Sample, View]]) -> list[tuple[Sample, View]]:
        """Return the views whose encodings this process computes."""
        return [(sample, view) for sample, view in views if self.owns(sample, view)]


ALONE = Shards()


@contextmanager
def training_processes(
    count: int, help_train: Callable[[Shards], object], *, device: str
) -> Iterator[Shards]:
    """Start further training processes, of which this one is the first.

    Args:
        count: of all processes.
        help_train: what the others do; pickled.
        device: of the run.

    Raises:
        ConfigError: more processes than cards.
        RunError: one of them ended.
    """
    if count == 1:
        yield ALONE
        return
    if device != "cpu" and count > torch.cuda.device_count():
        raise ConfigError(
            f"processes={count}: one per card, and this machine has {torch.cuda.device_count()}; "
            "set --processes lower"
        )
    context = torch.multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        helpers = [
            context.Process(target=_help, args=(Shards(i, count), store, help_train), daemon=True)
            for i in range(1, count)
        ]
        for helper in helpers:
            helper.start()
        try:
            first = Shards(0, count)
            _join(first, store)
            yield first
            for helper in helpers:
                helper.join(_END_SECONDS)
        finally:
            torch.set_num_threads(threads)
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for helper in helpers:
                helper.terminate()
                helper.join()


def device_of(shards: Shards, device: str) -> str:
    """Return the device of a process: a card of its own, or the processor."""
    return device if device == "cpu" else f"{device.partition(':')[0]}:{shards.rank}"


def _help(shards: Shards, store: Path, help_train: Callable[[Shards], object]) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    _join(shards, store)
    help_train(shards)
    distributed.destroy_process_group()


def _join(shards: Shards, path: Path) -> None:
    torch.set_num_threads(max(torch.get_num_threads() // shards.count, 1))
    if sys.platform == "linux":
        # All processes are on this machine, whose own name may resolve to nothing.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.FileStore(str(path), shards.count)  # type: ignore[attr-defined]
    store.set_timeout(timedelta(seconds=_BEGIN_SECONDS))
    with _noticing():
        distributed.init_process_group(
            "gloo", store=store, rank=shards.rank, world_size=shards.count,
            timeout=timedelta(hours=_WAIT_HOURS),
        )  # fmt: skip


@contextmanager
def _noticing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own
        raise RunError(
            "another training process has ended, perhaps for lack of memory; continue with "
            "--resume, or set --processes lower"
        ) from error


def _owner(sample: Sample, view: View, count: int) -> int:
    return zlib.crc32(f"{sample.id} {view}".encode()) % count
