"""Evaluate SAM runs on their validation parts, with several prediction settings.

    python benchmarks/sam_tta.py DATA RUN... [--set "tta=true, tta_views=4"] [--set ...]

The runs are folds, of `sam_finetune.py folds` or of a benchmark. Each `--set` is one row of the
table: it changes settings that training does not depend on. Without one the runs' own settings are
evaluated. Prints the mean IoU over the regions of all validation parts, each segmented by a decoder
that did not train on it (though its epoch was chosen on them), and the seconds per region, encoding
included where it was not cached. Test parts are not used.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.config import build_settings, parse_overrides
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.runs.run import Run


def main() -> None:
    """Parse the options, evaluate, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("runs", type=Path, nargs="+", help="finished SAM runs, one per fold")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE, ...", default=[])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    from toolkit.methods.sam.evaluate import FIRST_KINDS
    from toolkit.methods.sam.reuse_decoder import PREDICTION_SETTINGS

    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.data)
    plan = make_plan(dataset, protocol="supervised")
    runs = [Run.open(path) for path in options.runs]
    for run in runs:
        if run.record["split"]["hash"] != plan.hash:
            raise SystemExit(f"{run.path}: was trained on another split of the data")
    folds = [(run, plan.fold(dataset, run.record["split"]["fold"])) for run in runs]
    columns = ["settings", "regions", *FIRST_KINDS, "s per region"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for text in options.set or [""]:
        changes = parse_overrides([pair.strip() for pair in text.split(",") if pair.strip()])
        if trained := sorted(changes.keys() - PREDICTION_SETTINGS):
            raise SystemExit(f"--set {text}: {trained[0]} changes training, so train again")
        means, count, seconds = _mean_ious(folds, changes)
        cells = " | ".join(f"{mean:.3f}" for mean in means)
        print(f"| {text or 'as trained'} | {count} | {cells} | {seconds:.2f} |", flush=True)


def _mean_ious(
    folds: Sequence[tuple[Run, Split]], changes: dict[str, Any]
) -> tuple[list[float], int, float]:
    """Return the mean IoU per first kind of prompt, the number of regions, seconds per region."""
    import numpy as np

    from toolkit.methods.sam.encoder import EmbeddingCache
    from toolkit.methods.sam.evaluate import FIRST_KINDS, Evaluated, evaluate_prompts
    from toolkit.methods.sam.model import ENCODER_KEY, fine_tuned_model
    from toolkit.methods.sam.predictor import tta_config
    from toolkit.methods.sam.settings import SamSettings
    from toolkit.methods.sam.targets import region_targets

    found: dict[str, list[float]] = {kind: [] for kind in FIRST_KINDS}
    started = time.perf_counter()
    for run, split in folds:
        values = run.record["settings"] | changes
        settings = build_settings(SamSettings, values, source=str(run.path))
        sam = fine_tuned_model(settings, run)
        model = Evaluated(sam, tta_config(settings), settings.mask_threshold)
        cache = EmbeddingCache(sam, run.metadata[ENCODER_KEY])
        results = evaluate_prompts(model, cache, region_targets(split.val), FIRST_KINDS)
        for kind, of_kind in results.items():
            found[kind] += [result.iou for result in of_kind]
    count = len(found[FIRST_KINDS[0]])
    seconds = (time.perf_counter() - started) / max(count, 1)
    return [float(np.mean(found[kind])) for kind in FIRST_KINDS], count, seconds


if __name__ == "__main__":
    main()
