"""Are trainings and predictions the same again, and with another number of threads?

    python benchmarks/threads.py --data mvtec/bottle

Each method is trained three times with its defaults, but for few epochs and small images, on a part
of the data, in processes of their own: twice with one thread, once with two. Then each model of the
first training predicts with one thread and with two. Prints the largest difference of a score, or
"equal" where every stored score is equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[str, dict[str, Any]] = {
    "padim": {"image_size": 256},
    "patchcore": {"image_size": 256},
    "patchcore+": {"image_size": 256, "synthetic_defects_count": 8},
    "feature-autoencoder": {"image_size": 256, "epochs": 2},
    "devnet": {"image_size": 256, "steps": 20, "synthetic_defects_count": 8},
    "classifier": {"image_size": 224, "head_epochs": 2, "finetune_epochs": 1},
    "yolo": {"image_size": 320, "epochs": 2},
    "yolo-world": {"image_size": 320, "epochs": 1},
    "sam": {
        "epochs": 1, "augmentations": 1, "crops_per_region": 0, "negative_images": 1,
        "samples_per_epoch": 8, "points_per_side": 2,
    },
}  # fmt: skip
TRAIN = """\
import json, sys
import toolkit
method, data, runs, settings = sys.argv[1:]
named = json.loads(settings)
run = toolkit.train(method, data, runs=runs, name="run", device="cpu", **named)
print(run.path)
"""
PREDICT = """\
import json, sys
from pathlib import Path
import toolkit
run, data = sys.argv[1:]
model = toolkit.load_model(run)
images = sorted(Path(data).glob("test/*/*"))
print(json.dumps([float(r.score) for r in model.predict([str(p) for p in images], stream=True)]))
"""


def main() -> None:
    """Train and predict with each method, print one row each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS))
    parser.add_argument("--train-good", type=int, default=24)
    parser.add_argument("--each-type", type=int, default=6)
    options = parser.parse_args()
    print("| method | trained again, one thread | trained with two threads | predicted with two |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        data = part(options.data, work / "data", options.train_good, options.each_type)
        for method in options.methods:
            words = [json.dumps(SETTINGS[method])]
            runs = [
                python(TRAIN, method, data, work / f"{method}-{i}", *words, threads=threads)
                for i, threads in enumerate((1, 1, 2))
            ]
            scores = [stored(Path(run.splitlines()[-1])) for run in runs]
            first = runs[0].splitlines()[-1]
            predicted = [
                json.loads(python(PREDICT, first, data, threads=threads).splitlines()[-1])
                for threads in (1, 2)
            ]
            cells = [differ(scores[0], scores[1]), differ(scores[0], scores[2]), differ(*predicted)]
            print(f"| {method} | {' | '.join(cells)} |", flush=True)


def part(source: Path, target: Path, train_good: int, each_type: int) -> Path:
    """Copy the first images of each type."""
    for folder in sorted(p for p in source.glob("*/*") if p.is_dir()):
        count = train_good if folder.parent.name == "train" else each_type
        (target / folder.relative_to(source)).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:count]:
            shutil.copy(file, target / file.relative_to(source))
    return target


def python(code: str, *words: object, threads: int) -> str:
    """Run a program with some threads; return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads),
           "MKL_NUM_THREADS": str(threads)}  # fmt: skip
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout


def stored(run: Path) -> list[float]:
    """Return the scores of all stored predictions of a run."""
    lines = [
        json.loads(line)
        for part in ("val", "test")
        for line in (run / f"predictions/{part}.jsonl").read_text().splitlines()
    ]
    return [line["score"] for line in sorted(lines, key=lambda line: line["id"])]


def differ(one: list[float], other: list[float]) -> str:
    """Say whether scores are equal, or how much they differ, also relative to their spread."""
    if one == other:
        return "equal"
    most = max(abs(a - b) for a, b in zip(one, other, strict=True))
    return f"{most:.1e} ({most / (max(one) - min(one)):.1e} of the range of scores)"


if __name__ == "__main__":
    main()
