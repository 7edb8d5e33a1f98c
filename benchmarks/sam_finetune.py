"""Measure SAM's fine-tuning: its speed beside plainer ways, and its gain over all folds.

    python benchmarks/sam_finetune.py speed DATA [--threads 2] [--repeats 5]
    python benchmarks/sam_finetune.py folds DATA [--folds 0 1 2 3 4] [--runs DIR]
    python benchmarks/sam_finetune.py gain RUN...

`speed` times training steps of the same model on the same images: from cached embeddings (at SAM's
resolution and at half of it, where most epochs run), with the encoder in every step, one prompt at
a time through the stock decoder, and the plain recipe of the known tutorials (one image, one box,
encoder in the loop). `folds` trains folds of the protocol
`supervised` and evaluates true prompts on their test parts; interrupted, it continues.
`gain` pools what such runs (or those of a benchmark) reported, per data set: zero-shot beside
fine-tuned, for every kind of prompt, and a prompter's boxes beside true ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolkit.data.layouts import load_dataset
from toolkit.files import read_json


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed", help="time training steps; prints one JSON object")
    speed.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    speed.add_argument("--threads", type=int, default=2)
    speed.add_argument("--repeats", type=int, default=5)
    folds = commands.add_parser("folds", help="train folds and report on true prompts")
    folds.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    folds.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    folds.add_argument("--runs", type=Path, default=Path("runs/sam-folds"))
    folds.add_argument("--threads", type=int, default=2)
    folds.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    gain = commands.add_parser("gain", help="pool the reports of the folds; prints a table")
    gain.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "gain":
        print_gain(options.runs)
    elif options.command == "folds":
        run_folds(options)
    else:
        print(json.dumps(measure_speed(options), indent=2))


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Return medians of seconds per step, and the ratios that follow from them."""
    import numpy as np
    import torch

    from toolkit.data.images import read_rgb
    from toolkit.methods.sam import gradients
    from toolkit.methods.sam import train as training
    from toolkit.methods.sam.embeddings import EmbeddingCache, thread_pool
    from toolkit.methods.sam.encoder import Encoder
    from toolkit.methods.sam.model import ENCODER_KEY, copy_decoder, start_model
    from toolkit.methods.sam.settings import SamSettings
    from toolkit.methods.sam.targets import region_targets
    from toolkit.methods.sam.tta import WHOLE
    from toolkit.runs.environment import environment, keep_freed_memory, peak_memory_bytes
    from toolkit.runs.run import Run

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    settings = SamSettings(refinement_clicks=0)
    dataset = load_dataset(options.data)
    defects = [s for s in dataset.samples if s.is_defect]
    targets = [t for s in defects[:20] for t in region_targets([s])[:1]][:16]
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder), method="sam", settings={}, split={}, data={}, name="speed")
        sam = start_model(settings, run)
    cache = EmbeddingCache(sam, run.metadata[ENCODER_KEY])
    cache.fill([(t.sample, t.view) for t in targets])
    encode = Encoder(sam)

    class Anew:
        """Stands in for the cache, and encodes anew."""

        def get(self, sample: Any, view: Any = WHOLE) -> torch.Tensor:
            return encode(view.of_image(read_rgb(sample.image)))

    def step(source: Any, count: int, *, low_res: bool) -> Callable[[], Any]:
        state = training._State(copy_decoder(sam), settings, steps=1000)
        rng = np.random.default_rng(0)
        pooled: dict[Any, torch.Tensor] = {}

        def timed() -> None:
            with thread_pool(options.threads) as pool:
                context = gradients.StepContext(
                    state.sam, state.parameters, state.bfloat16, pool, options.threads
                )
                if low_res:
                    batch = gradients.low_res_batch(targets[:count], source, sam.device, pooled)
                else:
                    batch = gradients.full_res_batch(targets[:count], source, sam.device)
                gradients.compute_gradients(context, batch, settings, rng)
                state.step()

        return timed

    stock = _StockStep(copy_decoder(sam))

    def one_by_one() -> None:
        for target in targets:
            stock(cache.get(target.sample).float()[None], target)

    def plain() -> None:
        stock(encode(read_rgb(targets[0].sample.image))[None].float(), targets[0])

    seconds = {
        "cached, batch of 4": step(cache, 4, low_res=False),
        "cached, batch of 4, half resolution": step(cache, 4, low_res=True),
        "encoder in the step, batch of 4": step(Anew(), 4, low_res=False),
        "cached, batch of 16": step(cache, 16, low_res=False),
        "cached, batch of 16, half resolution": step(cache, 16, low_res=True),
        "cached, 16 one at a time, stock decoder": one_by_one,
        "plain recipe: one image, one box, encoder in the loop": plain,
    }
    medians = {name: _timed(work, options.repeats) for name, work in seconds.items()}
    four, four_half, encoding, sixteen, sixteen_half, single, plainly = (
        median for median, _ in medians.values()
    )
    # Encoding costs the same at either resolution.
    encoding_half = encoding - four + four_half

    def mean(at_half: float, at_full: float) -> float:
        """Average over a run's epochs, of which the default settings do most at half."""
        share = SamSettings().low_res_fraction
        return share * at_half + (1 - share) * at_full

    return {
        "environment": environment(),
        "threads": options.threads,
        "repeats": options.repeats,
        "seconds": {
            name: {"median": round(median, 4), "all": [round(s, 4) for s in alone]}
            for name, (median, alone) in medians.items()
        },
        "times as fast": {
            "cache against the encoder in the step, batch of 4": round(encoding / four, 2),
            "the same at half the resolution": round(encoding_half / four_half, 2),
            "the mean over a run's epochs": round(
                mean(encoding_half, encoding) / mean(four_half, four), 2
            ),
            "batch of 16 against one prompt at a time": round(single / sixteen, 2),
            "the same, the batch at half the resolution": round(single / sixteen_half, 2),
            "the mean over a run's epochs, batch of 16": round(
                single / mean(sixteen_half, sixteen), 2
            ),
            "prompts per second against the plain recipe": round(plainly / (four / 4), 2),
        },
        "peak_memory_mb": round(peak_memory_bytes() / 2**20),
    }


def run_folds(options: argparse.Namespace) -> None:
    """Train the folds one after the other and print what they gained."""
    import torch

    from toolkit.config import parse_overrides, settings_dict
    from toolkit.data.protocols import make_plan
    from toolkit.files import write_json
    from toolkit.methods.registry import make_method
    from toolkit.runs.environment import keep_freed_memory, peak_memory_bytes, seed_everything
    from toolkit.runs.run import Run
    from toolkit.training import read_method_config

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.data)
    plan = make_plan(dataset, protocol="supervised")
    _, settings, source = read_method_config("sam/default", parse_overrides(options.set))
    method = make_method("sam", settings, source=source)
    runs = []
    for fold in options.folds:
        path = options.runs / "sam" / f"fold{fold}"
        if (path / "run.json").is_file():
            run = Run.open(path)
        else:
            run = Run.create(
                options.runs, method="sam", settings=settings_dict(method.settings),
                split={"hash": plan.hash, "fold": fold}, data={"name": dataset.name},
                name=f"fold{fold}",
            )  # fmt: skip
        runs.append(run.path)
        if (run.path / "report.json").is_file():
            continue
        split = plan.fold(dataset, fold)
        seed_everything(run.seed)
        started = time.perf_counter()
        method.fit(split, run)
        run.update_metadata(
            fit_seconds=run.metadata.get("fit_seconds", 0.0) + time.perf_counter() - started
        )
        write_json(run.path / "report.json", dict(method.report(split, run)))
        run.update_metadata(peak_memory_mb=round(peak_memory_bytes() / 2**20))
        seconds, memory = run.metadata["fit_seconds"], run.metadata["peak_memory_mb"]
        print(
            f"fold {fold}: fit {seconds:.0f} s, encoding included where it was not cached; "
            f"peak memory {memory} MiB",
            flush=True,
        )
    print_gain(runs)


class _StockStep:
    """One optimiser step on one prompt through the stock prompt encoder and decoder, float32."""

    def __init__(self, sam: Any) -> None:
        import torch

        self.sam = sam
        parameters = list(sam.mask_decoder.parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5)

    def __call__(self, embedding: Any, target: Any) -> None:
        import torch

        from toolkit.methods.sam.losses import mask_loss
        from toolkit.runtime.segmentation import scale_to_input

        box = torch.tensor([target.box_xyxy], dtype=torch.float32) * scale_to_input(target.size_wh)
        with torch.no_grad():
            sparse, dense = self.sam.prompt_encoder(points=None, boxes=box, masks=None)
        logits, _ = self.sam.mask_decoder(
            image_embeddings=embedding, image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        mask_loss(logits[:, 0], torch.from_numpy(target.low_res_mask)[None]).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _timed(work: Callable[[], Any], repeats: int) -> tuple[float, list[float]]:
    work()  # the first call pays for memory and code
    single = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        single.append(time.perf_counter() - started)
    return statistics.median(single), single


def print_gain(runs: Sequence[Path]) -> None:
    """Print the pooled figures of `report.json`, one table over all data sets.

    Raises:
        SystemExit: two runs tested the same image, or a run has no such report.
    """
    from toolkit.methods.sam.evaluate import KINDS, RegionResult, compare
    from toolkit.runs.run import Run

    pooled: dict[str, dict[str, list[RegionResult]]] = {}
    images: dict[str, list[dict[str, float | None]]] = {}
    seen: set[tuple[str, str]] = set()
    for path in runs:
        report = read_json(path / "report.json")
        name = Run.open(path).record["data"]["name"]
        own = {(name, row["sample_id"]) for row in report["regions"]["tuned"]}
        if own & seen:
            raise SystemExit(f"{path}: {min(own & seen)[1]} is in another run's test part too")
        seen |= own
        images.setdefault(name, []).append(report["images"])
        for model, rows in report["regions"].items():
            results = pooled.setdefault(name, {}).setdefault(model, [])
            results += [RegionResult(**row) for row in rows]
    head = ["data", "prompt", "regions", "zero-shot", "tuned", "difference [95 %]", *_PARTS]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    groups: dict[str, dict[str, Any]] = {}
    for name, models in pooled.items():
        for kind in KINDS:
            before, after = (
                [r for r in models[m] if r.kind == kind] for m in ("zero_shot", "tuned")
            )
            figures = groups.setdefault(name, {})[kind] = compare(before, after)
            low, high = figures["interval"]["low"], figures["interval"]["high"]
            gained = f"{figures['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            means = [f"{figures[m]:.3f}" for m in ("zero_shot", "tuned")]
            parts = [_mean(models[part], kind) for part in _PARTS.values()]
            cells = [name, kind, str(figures["regions"]), *means, gained, *parts]
            print("| " + " | ".join(cells) + " |")
    print("\n| data, IoU of whole masks | zero-shot, true boxes | tuned, true boxes | prompter |")
    print("|---|---|---|---|")
    for name, rows in images.items():
        cells = []
        for key in ("true_boxes_zero_shot", "true_boxes", "prompter"):
            values = [row[key] for row in rows if row[key] is not None]
            cells.append(f"{statistics.fmean(values):.3f}" if values else "-")
        print(f"| {name} | {' | '.join(cells)} |")
    for by in ("by_type", "by_size"):
        print(f"\n| data | {by.replace('_', ' ')} | regions | " + " | ".join(KINDS) + " |")
        print("|---|---|---|" + "---|" * len(KINDS))
        for name, figures in groups.items():
            for group, member in figures[KINDS[0]][by].items():
                cells = [_pair(figures[kind][by][group]) for kind in KINDS]
                print(f"| {name} | {group} | {member['regions']} | {' | '.join(cells)} |")


_PARTS = {
    "without the choice": "without_choice", "without crops": "without_crops",
    "zero-shot with crops": "zero_shot_with_crops",
}  # fmt: skip


def _mean(rows: Sequence[Any], kind: str) -> str:
    ious = [row.iou for row in rows if row.kind == kind]
    return f"{statistics.fmean(ious):.3f}" if ious else "-"


def _pair(figures: dict[str, float]) -> str:
    return f"{figures['zero_shot']:.3f} → {figures['tuned']:.3f}"


if __name__ == "__main__":
    main()
