"""Progress of thousands of steps a second, told a few times a second, with the rate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.progress import Progress

_EVERY_SECONDS = 0.2


class Ticker:
    """Counts images and tells the progress bar now and then.

    Args:
        bar: whom to tell; None tells nobody.
    """

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._started = self._told = time.monotonic()
        self._done = self._pending = 0

    def tick(self) -> None:
        """Count one image."""
        self._pending += 1
        if self._bar is not None and time.monotonic() - self._told >= _EVERY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Tell what was counted since the last time."""
        if self._bar is None or not self._pending:
            return
        self._told = time.monotonic()
        self._done += self._pending
        rate = self._done / max(self._told - self._started, 1e-9)
        self._bar.advance(self._pending, rate=f"{rate:.0f} images/s")
        self._pending = 0
