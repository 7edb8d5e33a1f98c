"""Judge SAM runs by their validation parts, under several ways of looking at an image.

    python benchmarks/sam_looks.py DATA RUN... [--way "looks=4, smooth=0"] [--way ...]

The runs are folds, of `sam_finetune.py folds` or of a benchmark. A way changes settings that
training does not see; without one the runs' own settings are judged. Prints the mean IoU over the
regions of all validation parts, each answered by a decoder that did not train on it (though its
epoch was chosen on them). The test parts are not looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings, parse_overrides
from toolkit.data.layouts import read_dataset
from toolkit.data.splits import Split, make_plan
from toolkit.runs.run import Run


def main() -> None:
    """Parse the options, judge, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("runs", type=Path, nargs="+", help="finished SAM runs, one per fold")
    parser.add_argument("--way", action="append", metavar="KEY=VALUE, ...", default=[])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    from toolkit.methods.sam.borrow import ANSWERING
    from toolkit.methods.sam.evaluate import FIRST_KINDS

    torch.set_num_threads(options.threads)
    dataset = read_dataset(options.data)
    plan = make_plan(dataset, protocol="supervised")
    runs = [Run.open(path) for path in options.runs]
    for run in runs:
        if run.record["split"]["hash"] != plan.hash:
            raise SystemExit(f"{run.path}: was trained on another split of the data")
    folds = [(run, plan.fold(dataset, run.record["split"]["fold"])) for run in runs]
    print(f"| way | regions | {' | '.join(FIRST_KINDS)} |\n|---|---|{'---|' * len(FIRST_KINDS)}")
    for way in options.way or [""]:
        changes = parse_overrides([pair.strip() for pair in way.split(",") if pair.strip()])
        if trained := sorted(changes.keys() - ANSWERING):
            raise SystemExit(f"--way {way}: {trained[0]} is seen by training, so train anew")
        means, count = _mean_ious(folds, changes)
        cells = " | ".join(f"{mean:.3f}" for mean in means)
        print(f"| {way or 'as trained'} | {count} | {cells} |", flush=True)


def _mean_ious(
    folds: Sequence[tuple[Run, Split]], changes: dict[str, Any]
) -> tuple[list[float], int]:
    """Return the mean IoU per first kind of prompt, and of how many regions."""
    import numpy as np

    from toolkit.methods.sam.embeddings import EmbeddingCache
    from toolkit.methods.sam.evaluate import FIRST_KINDS, prompted
    from toolkit.methods.sam.method import Sam
    from toolkit.methods.sam.settings import SamSettings
    from toolkit.methods.sam.targets import region_targets

    found: dict[str, list[float]] = {kind: [] for kind in FIRST_KINDS}
    for run, split in folds:
        values = run.record["settings"] | changes
        settings = build_settings(SamSettings, values, source=str(run.path))
        sam, looks = Sam(settings).looking(run)
        results = prompted(sam, EmbeddingCache(sam), region_targets(split.val), FIRST_KINDS, looks)
        for kind, of_kind in results.items():
            found[kind] += [result.iou for result in of_kind]
    return [float(np.mean(found[kind])) for kind in FIRST_KINDS], len(found[FIRST_KINDS[0]])


if __name__ == "__main__":
    main()
