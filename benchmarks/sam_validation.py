"""Evaluate SAM runs on their validation parts, with several prediction settings.

    python benchmarks/sam_validation.py --run DATA RUN [--run DATA RUN] [--set "crop_below=0.3"] ...

The runs are folds, of `sam_finetune.py folds` or of a benchmark. Each `--set` is one row of the
table: it changes settings that training does not depend on; `decoder=tuned`, `decoder=zero_shot`
and `decoder=chosen` (default: by the choice that is stored in the run) name who answers. Prints the
mean IoU over the regions of the validation parts, per data set and as the mean over data sets, each
segmented by a decoder that did not train on it (though its epoch was chosen on them). Test parts
are not used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
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
    parser.add_argument("--run", nargs=2, metavar=("DATA", "RUN"), action="append", required=True)
    parser.add_argument("--set", action="append", metavar="KEY=VALUE, ...", default=[])
    parser.add_argument("--kinds", nargs="+", default=["box", "1-click"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    folds = [_fold(Path(data), Path(run)) for data, run in options.run]
    names = list(dict.fromkeys(split.dataset.name for _, split in folds))
    columns = [f"{name} {kind}" for name in [*names, "mean"] for kind in options.kinds]
    print(f"| settings | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for text in options.set or [""]:
        changes = parse_overrides([pair.strip() for pair in text.split(",") if pair.strip()])
        rows = {name: _mean_ious(folds, name, changes, options.kinds) for name in names}
        rows["mean"] = [sum(column) / len(names) for column in zip(*rows.values(), strict=True)]
        cells = [f"{mean:.3f}" for name in rows for mean in rows[name]]
        print(f"| {text or 'as trained'} | {' | '.join(cells)} |", flush=True)


def _fold(data: Path, path: Path) -> tuple[Run, Split]:
    dataset, run = load_dataset(data), Run.open(path)
    plan = make_plan(dataset, protocol="supervised")
    if run.record["split"]["hash"] != plan.hash:
        raise SystemExit(f"{path}: was trained on another split of {data}")
    return run, plan.fold(dataset, run.record["split"]["fold"])


def _mean_ious(
    folds: Sequence[tuple[Run, Split]],
    name: str,
    changes: Mapping[str, Any],
    kinds: Sequence[str],
) -> list[float]:
    """Return the mean IoU of a data set's validation regions per kind of prompt."""
    import numpy as np

    from toolkit.methods.sam.embeddings import training_cache
    from toolkit.methods.sam.evaluate import Evaluated, evaluate_prompts
    from toolkit.methods.sam.model import ENCODER_KEY, chosen_decoders, initial_model
    from toolkit.methods.sam.predictor import tta_config
    from toolkit.methods.sam.settings import SamSettings
    from toolkit.methods.sam.targets import region_targets
    from toolkit.methods.sam.tta import Decoders

    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for run, split in folds:
        if split.dataset.name != name:
            continue
        values = {**run.record["settings"], **changes}
        decoder = values.pop("decoder", "chosen")
        settings = build_settings(SamSettings, values, source=str(run.path))
        decoders = chosen_decoders(settings, run)
        if decoder != "chosen":
            alone = decoders.tuned if decoder == "tuned" else initial_model(settings, run)
            decoders = Decoders(alone)
        cache = training_cache(decoders.tuned, run.metadata[ENCODER_KEY], split.train)
        model = Evaluated(decoders, tta_config(settings), settings.mask_threshold)
        for kind, of_kind in evaluate_prompts(
            model, cache, region_targets(split.val), kinds
        ).items():
            found[kind] += [result.iou for result in of_kind]
    return [float(np.mean(found[kind])) for kind in kinds]


if __name__ == "__main__":
    main()
