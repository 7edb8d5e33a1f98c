"""Images worth a label: borderline and surprising ones, the newest of each, as a data set.

    <folder>/images/   <time>-<decision>-<sha256>.png …    masks/

This is the layout `folder`: move an image to `images/good/` or `images/defect/` (with a mask of the
same name in `masks/defect/`), and `toolkit finetune --data <folder>` takes it.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import numpy as np

from toolkit.decisions.outcomes import Outcome
from toolkit.files import atomic_write
from toolkit.line.answers import Answer

_RECENT = 1000
_FIRST = 50
_SHARE = 0.02


class Collected:
    """A ring buffer of images on disk.

    Borderline: REVIEW, or among the 2 % of recent images nearest to the threshold. Surprising:
    among the 2 % of highest scores.

    Args:
        folder: of the data set.
        capacity: images kept of each kind; the oldest go first.
    """

    def __init__(self, folder: Path, *, capacity: int = 100) -> None:
        self.folder, self._capacity = folder, capacity
        self._scores: deque[float] = deque(maxlen=_RECENT)

    def offer(self, answer: Answer, data: bytes, sha256: str, suffix: str) -> Path | None:
        """Keep the image if it is worth a label; return its file.

        Raises:
            OutputError: it cannot be written.
        """
        kind = self._kind(answer)
        if kind is None:
            return None
        images = self.folder / "images"
        (self.folder / "masks").mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S")
        path = images / f"{stamp}-{kind}-{answer.decision.value}-{sha256[:12]}{suffix}"
        if any(images.glob(f"*-{sha256[:12]}.*")):
            return None
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
        for old in sorted(images.glob(f"*-{kind}-*"))[: -self._capacity]:
            old.unlink(missing_ok=True)
        return path

    def _kind(self, answer: Answer) -> str | None:
        if answer.score is None or answer.threshold is None:
            return None
        scores = np.array(self._scores)
        self._scores.append(answer.score)
        if answer.decision is Outcome.REVIEW:
            return "borderline"
        if len(scores) < _FIRST:
            return None
        apart = np.abs(scores - answer.threshold)
        if abs(answer.score - answer.threshold) <= np.quantile(apart, _SHARE):
            return "borderline"
        return "surprising" if answer.score >= np.quantile(scores, 1 - _SHARE) else None
