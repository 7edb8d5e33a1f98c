"""False positives: boxes on good images, at the threshold that validation chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.data.types import Sample
from toolkit.metrics.threshold import f1_threshold
from toolkit.runs.prediction_io import read_predictions
from toolkit.runs.run import Run


def false_positives(run: Run, val: Sequence[Sample], test: Sequence[Sample]) -> dict[str, Any]:
    """Count the boxes of good images in the run's stored predictions.

    Args:
        run: has predictions of both parts.
        val: its validation part, which chooses the threshold on the highest box score.
        test: its test part.

    Returns:
        `threshold`, and per part `per_good_image_{val,test}`; null with a reason where a part has
        no good image or no threshold can be chosen.
    """
    scores = {p.sample_id: p.score for p in read_predictions(run.predictions, "val", pixels=False)}
    known = [s for s in val if s.id in scores]
    if not any(s.is_defect for s in known) or all(s.is_defect for s in known):
        return {"threshold": None, "reason": "validation has only good or only defective images"}
    threshold = f1_threshold([scores[s.id] for s in known], [s.is_defect for s in known])
    found: dict[str, Any] = {"threshold": threshold}
    for part, samples in (("val", val), ("test", test)):
        good = {s.id for s in samples if not s.is_defect}
        counts = [
            int((p.boxes.scores >= threshold).sum())
            for p in read_predictions(run.predictions, part, pixels=False)
            if p.sample_id in good and p.boxes is not None
        ]
        missing = {"value": None, "reason": f"no good images in {part}"}
        found[f"per_good_image_{part}"] = sum(counts) / len(counts) if counts else missing
    return found
