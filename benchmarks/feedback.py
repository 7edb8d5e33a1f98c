"""What do overruled good images teach? Feedback on a stream of good images, judged on the rest.

    python benchmarks/feedback.py RUN STREAM FROZEN --overruled 10

STREAM holds good images that the run has not seen; the first that it flags are overruled. The other
images of the stream tell what that has changed. FROZEN has ok/ and nok/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
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
    options = parser.parse_args()
    model = toolkit.load_model(options.run)
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
        new = toolkit.load_model(learned.run)
        counts = [sum(o is not Outcome.OK for o, _ in decide(m, others)) for m in (model, new)]
        print(f"the other {len(others)}: {counts[0]} flagged before, {counts[1]} after")


if __name__ == "__main__":
    main()
