"""Deliver the events of the ledger to the sinks: in order, again and again until they arrive."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from toolkit.line.ledger import Ledger, LedgerError
from toolkit.line.sinks import Sink, SinkDownError

_LONGEST = 60.0
_IDLE = 0.5


class Delivery:
    """One thread for each sink, so that one that is down holds up no other.

    Args:
        ledger: whose outbox is emptied.
        sinks: the receivers.
        say: called once when a sink goes down, and when it is up again.
        first_wait: seconds after the first failure; doubled with each one up to a minute while no
            event arrives.
    """

    def __init__(
        self,
        ledger: Ledger,
        sinks: Sequence[Sink],
        *,
        say: Callable[[str], None],
        first_wait: float = 0.1,
    ) -> None:
        self._ledger, self._sinks, self._say = ledger, list(sinks), say
        self._first_wait = first_wait
        self.down: dict[str, str] = {}
        self._stop = threading.Event()
        self._wake = {sink.name: threading.Event() for sink in sinks}
        self._threads = [
            threading.Thread(target=self._run, args=[sink], name=sink.name, daemon=True)
            for sink in sinks
        ]
        for thread in self._threads:
            thread.start()

    @property
    def names(self) -> list[str]:
        """Names of the sinks."""
        return [sink.name for sink in self._sinks]

    def wake(self) -> None:
        """Look for new events now."""
        for event in self._wake.values():
            event.set()

    def close(self, *, seconds: float = 5.0) -> None:
        """Deliver what can be delivered at once, and stop."""
        self._stop.set()
        self.wake()
        for thread in self._threads:
            thread.join(seconds)
        for sink in self._sinks:
            sink.close()

    def _run(self, sink: Sink) -> None:
        failures, wake = 0, self._wake[sink.name]
        while True:
            wake.clear()
            try:
                pending = self._ledger.pending(sink.name)
                arrived = self._send(sink, pending)
            except LedgerError as error:
                self._note(sink, str(error))
                arrived, pending = -1, []
            if arrived > 0:
                failures = 0  # a receiver that refuses one event now and then is not down
            if arrived < len(pending):
                failures += 1
            if self._stop.is_set() and (failures or not pending):
                return
            if failures:
                wait = min(_LONGEST, self._first_wait * 2.0 ** min(failures - 1, 10))
                self._stop.wait(wait * (0.5 + random.random() / 2))
            elif not pending:
                wake.wait(_IDLE)

    def _send(self, sink: Sink, pending: Sequence[tuple[int, dict[str, Any]]]) -> int:
        """Send events in order up to the first that does not arrive; return how many did."""
        for arrived, (number, event) in enumerate(pending):
            try:
                sink.send(event)
            except SinkDownError as error:
                self._ledger.failed(number)
                self._note(sink, str(error))
                return arrived
            self._ledger.delivered([number])
            self._note(sink, "")
        return len(pending)

    def _note(self, sink: Sink, problem: str) -> None:
        before = self.down.get(sink.name)
        if problem and not before:
            self._say(f"sink {sink.name}: {problem}; kept in the ledger and sent again")
            self.down[sink.name] = problem
        elif before and not problem:
            self._say(f"sink {sink.name}: up again")
            del self.down[sink.name]
