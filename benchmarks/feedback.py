"""What do overruled good images teach? Feedback on a stream of good images, judged on the rest.

    python benchmarks/feedback.py RUN STREAM FROZEN --overruled 10 --calibration CARD

STREAM holds good images that the run has not seen; the first that it flags are overruled. The other
images of the stream show what that has changed. FROZEN has ok/ and nok/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import toolkit
from toolkit.data.images import is_image_file
from toolkit.decisions.outcomes import Outcome
from toolkit.line.compare import decide
from toolkit.line.feedback import give_feedback


def main() -> None:
    """Run the benchmark and print what has changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("stream", type=Path)
    parser.add_argument("frozen", type=Path)
    parser.add_argument("--overruled", type=int, default=10)
    parser.add_argument("--calibration")
    options = parser.parse_args()
    model = toolkit.load_model(options.run, calibration=options.calibration)
    images = sorted(path for path in options.stream.rglob("*") if is_image_file(path))
    before = decide(model, images)
    flagged = [p for p, (o, _) in zip(images, before, strict=True) if o is not Outcome.OK]
    taught = flagged[: options.overruled]
    others = [path for path in images if path not in taught]
    print(f"{len(images)} good images, {len(flagged)} flagged; {len(taught)} are overruled")
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        learned = give_feedback(model, taught, Path(name), truth="ok", who="benchmark",
                                frozen=options.frozen)  # fmt: skip
        seconds = time.monotonic() - started
        assert learned is not None
        print(f"{learned.text} ({seconds:.0f} s with the judging)")
        if learned.run is None:
            return
        new = toolkit.load_model(learned.run, calibration=learned.card)
        nok = sorted(path for path in (options.frozen / "nok").iterdir() if is_image_file(path))
        for name, one in (("before", model), ("after", new)):
            decided = decide(one, others)
            flagged_now = sum(outcome is not Outcome.OK for outcome, _ in decided)
            auroc = image_auroc([score for _, score in decided],
                                [score for _, score in decide(one, nok)])  # fmt: skip
            print(f"{name}: threshold {one.threshold:.2f}, {flagged_now} of the other "
                  f"{len(others)} flagged, AUROC against nok/ {auroc:.3f}")  # fmt: skip


def image_auroc(good: Sequence[float], defective: Sequence[float]) -> float:
    """Return the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    labels = [0] * len(good) + [1] * len(defective)
    return float(roc_auc_score(labels, [*good, *defective]))


if __name__ == "__main__":
    main()
