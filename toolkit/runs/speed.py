"""How fast a run predicts, where a benchmark has measured it alone on the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.files import read_json
from toolkit.runs.run import Run

SPEED = "speed.json"
"""In a run: `engine`, `threads`, and the `seconds` and `decode_seconds` of each image."""


def measured_speed(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the speed of runs that were all measured; empty if one was not.

    Returns:
        `ms_per_image_median` and `ms_per_image_p95` from the decoded image to the result,
        `decode_ms_median`, `images_per_second` (one image after the other, without decoding),
        `engine` and `threads`.
    """
    files = [run.path / SPEED for run in runs]
    if not files or not all(file.is_file() for file in files):
        return {}
    records = [read_json(file) for file in files]
    seconds = np.concatenate([record["seconds"] for record in records])
    decoding = np.concatenate([record["decode_seconds"] for record in records])
    return {
        "ms_per_image_median": round(float(np.median(seconds)) * 1e3, 3),
        "ms_per_image_p95": round(float(np.percentile(seconds, 95)) * 1e3, 3),
        "images_per_second": round(len(seconds) / max(float(seconds.sum()), 1e-9), 3),
        "decode_ms_median": round(float(np.median(decoding)) * 1e3, 3),
        "engine": ", ".join(sorted({record["engine"] for record in records})),
        "threads": max(int(record["threads"]) for record in records),
    }
