"""Measure exports: what each precision loses, how fast it is, and the time to the first answer.

    python benchmarks/export.py DATA [--methods patchcore classifier yolo] [--images 50]

Trains each method on a category in MVTec layout with its defaults (`--quick`: shortly), exports it
in every format and precision without falling back, and predicts test images with all of them in
turn, one at a time. Start times are of whole processes, from the command to its end, medians of
three. Prints one JSON object; times are medians in milliseconds after a warm-up.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import toolkit
from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.errors import ToolkitError
from toolkit.inference import export
from toolkit.methods.registry import load_method
from toolkit.runs.environment import environment
from toolkit.runs.run import Run
from toolkit.runtime.engines import default_threads

QUICK: dict[str, dict[str, Any]] = {
    "classifier": {"head_epochs": 6, "finetune_epochs": 2},
    "yolo": {"epochs": 10, "image_size": 320},
}
VARIANTS = [(form, precision) for form in export.ENGINES for precision in export.PRECISIONS
            if (form, precision) != ("onnx", "bf16")]  # fmt: skip
_WARM_UP = 5


def main() -> None:
    """Parse the options, measure, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("--methods", nargs="+", default=["patchcore", "classifier", "yolo"])
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="train shortly")
    parser.add_argument("--runs", type=Path, help="folder of runs, kept for another measurement")
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment(), "threads": default_threads()}
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            run = toolkit.train(
                method, options.data, runs=options.runs or Path(folder), name="export",
                device="cpu", resume=True, **(QUICK.get(method, {}) if options.quick else {}),
            )  # fmt: skip
            record[method] = measure(run, options.data, options.images, Path(folder) / method)
    print(json.dumps(record, indent=2))


def measure(run: Run, data: Path, count: int, folder: Path) -> dict[str, Any]:
    """Return per variant whether it passes, what it loses, its size and its speed."""
    dataset, method = load_dataset(data), load_method(run)
    found: dict[str, dict[str, Any]] = {}
    models: dict[str, Any] = {"torch": toolkit.load_model(run, engine="torch")}
    fallbacks = export._from
    export._from = lambda precision, form: fallbacks(precision, form)[:1]
    for form, precision in VARIANTS:
        name, out = f"{form} {precision}", folder / f"{form}-{precision}"
        said: list[str] = []
        try:
            export.export_run(
                run, method, dataset, out, form=form, precision=precision, say=said.append
            )
        except ToolkitError as error:
            found[name] = {"kept": False, "compared": (said or [str(error)])[-1]}
            continue
        files = sum(f.stat().st_size for f in out.glob("model.*"))
        found[name] = {"kept": True, "compared": said[0], "model_mb": round(files / 1e6, 2)}
        models[name] = toolkit.load_model(out)
    export._from = fallbacks
    files = list(itertools.islice(itertools.cycle(sorted(data.glob("test/*/*.*"))), count))
    times: dict[str, list[float]] = {name: [] for name in models}
    for number, file in enumerate([*files[:_WARM_UP], *files]):
        image = read_rgb(file)
        for name, model in models.items():
            started = time.perf_counter()
            model(image)
            if number >= _WARM_UP:
                times[name].append(1000 * (time.perf_counter() - started))
    for name, seconds in times.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        found.setdefault(name, {})["ms"] = round(middle, 2)
        found[name]["quartiles"] = [round(low, 2), round(high, 2)]
    toolkit.load_model(run, engine="openvino")  # makes the engine's files
    image = str(files[0])
    found["start to end of the command, s"] = {
        "toolkit predict RUN": first_answer(folder, str(run.path), image),
        "toolkit predict RUN --engine openvino": first_answer(
            folder, str(run.path), image, "--engine", "openvino"
        ),
        **{
            f"toolkit predict {form} export": first_answer(folder, str(place), image)
            for form in export.ENGINES
            if (place := folder / f"{form}-fp32").is_dir()
        },
        **{
            f"predict.py, {form}": program([str(place / "predict.py"), image])
            for form in export.ENGINES
            if (place := folder / f"{form}-fp32").is_dir()
        },
    }
    return found


def first_answer(folder: Path, model: str, *words: str) -> float:
    """Return the seconds that `toolkit predict` takes for one image."""
    command = "from toolkit.cli.main import main; main()"
    return program(["-c", command, "predict", model, *words, "--out", str(folder / "out")])


def program(words: list[str]) -> float:
    """Return the median seconds of three runs of a Python program."""
    root = str(Path(__file__).resolve().parent.parent)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *words],
            check=True, capture_output=True, env={**os.environ, "PYTHONPATH": root},
        )  # fmt: skip
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds), 2)


if __name__ == "__main__":
    main()
