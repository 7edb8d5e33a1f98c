"""Masks per second of the converter, beside other converters and beside mere decoding.

    python benchmarks/convert.py --data mvtec/bottle [--datumaro-python VENV/bin/python] [--many N]

All contestants take turns, so a busy machine slows each of them alike; what counts are the ratios
within a round, by the wall clock and by processor time (which other people's load hardly moves).
Figures are medians of the rounds. Ours is the whole of `convert(to="yolo")`: reading masks, hashing
the images, linking them, writing labels and report. The others neither hash nor link.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from toolkit.data import decoding
from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset
from toolkit.formats.convert import convert

HERE = Path(__file__).resolve().parent


def only_defects(dataset: Dataset) -> Dataset:
    """Return the defect images, with nothing hashed yet."""
    return replace(dataset, samples=tuple(s for s in dataset if s.is_defect))


def as_mvtec(dataset: Dataset, folder: Path) -> Path:
    """Lay out the defect images alone, for tools that read a whole folder."""
    for name in ("test", "ground_truth"):
        (folder / name).mkdir(parents=True)
        for label in dataset.classes:
            (folder / name / label).symlink_to((dataset.root / name / label).resolve())
    return folder


def flat_masks(dataset: Dataset, folder: Path) -> Path:
    """Link the masks into one folder, as Ultralytics' converter wants them."""
    folder.mkdir(parents=True)
    for sample in dataset:
        for mask in sample.masks:
            (folder / f"{sample.label}_{mask.name}").symlink_to(mask.resolve())
    return folder


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that the work takes: on the wall, and of the processor."""
    started, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - processor


def decoders(files: list[bytes]) -> dict[str, Callable[[], object]]:
    """Return what decodes all masks, per decoder; those that are installed."""

    def with_opencv() -> None:
        for data in files:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)

    streams = [idat(data) for data in files]

    def inflate() -> None:
        for stream in streams:
            zlib.decompress(stream)

    found: dict[str, Callable[[], object]] = {
        "decode: OpenCV": with_opencv,
        "inflate: zlib": inflate,
    }
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        print("kornia_rs is not installed: OpenCV decodes")
    else:
        sizes = [(int.from_bytes(d[20:24], "big"), int.from_bytes(d[16:20], "big")) for d in files]

        def with_kornia() -> None:
            for data, size in zip(files, sizes, strict=True):
                decode_image_png_u8(data, size, "mono")

        found["decode: kornia_rs"] = with_kornia
    try:
        import pyspng
    except ImportError:
        print("pyspng is not installed: left out")
    else:
        found["decode: pyspng"] = lambda: [pyspng.load(data) for data in files]
    return found


def idat(data: bytes) -> bytes:
    """Return the compressed stream of a PNG."""
    at, parts = 8, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            parts.append(data[at + 8 : at + 8 + size])
        at += size + 12
    return b"".join(parts)


def ours(dataset: Dataset, out: Path, *, workers: int = 1) -> Callable[[], object]:
    """Return a conversion into a fresh folder, with nothing remembered from the last one."""

    numbers = itertools.count()

    def work() -> None:
        convert(replace(dataset), to="yolo", out=out / str(next(numbers)), workers=workers)

    return work


def without_kornia(work: Callable[[], object]) -> Callable[[], object]:
    """Return the same work as it is where `kornia_rs` is not installed."""

    def slower() -> None:
        known = decoding._kornia
        decoding._kornia = lambda: None
        try:
            work()
        finally:
            decoding._kornia = known

    return slower


def ultralytics(masks: Path, out: Path) -> Callable[[], object]:
    """Return Ultralytics' conversion; 255 classes, as its pixel values 0/255 demand."""
    from ultralytics.data.converter import convert_segment_masks_to_yolo_seg
    from ultralytics.utils import LOGGER

    LOGGER.setLevel("ERROR")

    numbers = itertools.count()

    def work() -> None:
        folder = out / str(next(numbers))
        folder.mkdir(parents=True)
        convert_segment_masks_to_yolo_seg(str(masks), str(folder), 255)

    return work


def rounds(contestants: dict[str, Callable[[], float]], *, repeats: int) -> dict[str, list[float]]:
    """Let all take turns; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(repeats + 1):
        for name, run in contestants.items():
            took = run()
            if number:
                seconds[name].append(took)
    return seconds


def bottle(data: Path, *, datumaro_python: str | None, repeats: int, place: Path) -> None:
    """Measure on one real data set and print the table and the ratios."""
    dataset = only_defects(load_dataset(data))
    files = [mask.read_bytes() for sample in dataset for mask in sample.masks]
    yolo = ours(dataset, place / "ours")
    jobs: dict[str, Callable[[], object]] = {
        "ours": yolo,
        "ours, OpenCV decodes": without_kornia(yolo),
        **decoders(files),
        "Ultralytics": ultralytics(flat_masks(dataset, place / "masks"), place / "ultralytics"),
    }
    contestants = {name: (lambda work=work: timed(work)) for name, work in jobs.items()}
    if datumaro_python:
        folder = as_mvtec(dataset, place / "bottle")
        command = [datumaro_python, str(HERE / "datumaro_side.py"), str(folder)]

        def datumaro() -> tuple[float, float]:  # twice: its first export loads what it needs
            told = subprocess.run(
                [*command, str(place / "datumaro"), "2"], check=True, capture_output=True, text=True
            )
            wall, processor = json.loads(told.stdout.splitlines()[-1])[-1]
            return wall, processor

        contestants["Datumaro"] = datumaro
    else:
        print("Datumaro: give --datumaro-python, the Python of an environment that has it")
    seconds = rounds(contestants, repeats=repeats)
    print(f"\n{len(files)} masks of {dataset.name}, medians of {repeats} rounds in turn")
    print(
        f"{'':24s} {'masks/s':>12s} {'per CPU second':>15s} {'ours, wall':>12s} {'ours, CPU':>11s}"
    )
    for name, took in seconds.items():
        wall, processor = (statistics.median(t[i] for t in took) for i in (0, 1))
        ratios = [
            statistics.median(t[i] / o[i] for t, o in zip(took, seconds["ours"], strict=True))
            for i in (0, 1)
        ]
        print(
            f"{name:24s} {len(files) / wall:12.0f} {len(files) / processor:15.0f} "
            f"{ratios[0]:10.2f} x {ratios[1]:9.2f} x"
        )


def second_run(data: Path, *, repeats: int, place: Path) -> None:
    """Compare a first conversion with one that finds nothing changed."""
    dataset = load_dataset(data)
    out = place / "again"
    firsts, seconds = [], []
    for _ in range(repeats):
        shutil.rmtree(out, ignore_errors=True)
        firsts.append(timed(lambda: convert(replace(dataset), to="yolo", out=out))[0])
        seconds.append(timed(lambda: convert(replace(dataset), to="yolo", out=out))[0])
    share = statistics.median(b / a for a, b in zip(firsts, seconds, strict=True))
    print(
        f"\nsecond run, all {len(dataset)} images: {statistics.median(seconds) * 1e3:.1f} ms after "
        f"{statistics.median(firsts) * 1e3:.0f} ms, {share:.1%}"
    )


_WORKERS = """
import sys, time
from dataclasses import replace
from pathlib import Path
from toolkit.data.layouts import load_dataset
from toolkit.formats.convert import convert
data, out = Path(sys.argv[1]), Path(sys.argv[2])
copies, workers = int(sys.argv[3]), int(sys.argv[4])
dataset = load_dataset(data)
defects = [s for s in dataset if s.is_defect]
many = replace(
    dataset,
    samples=tuple(replace(s, id=f"copy{n:03d}/{s.id}") for n in range(copies) for s in defects),
)
many.fingerprint  # hashing, which one thread does, is not what workers share
started = time.perf_counter()
report = convert(many, to="yolo", out=out, workers=workers)
print(report.n_images, time.perf_counter() - started)
"""


def attainable() -> float:
    """Return how much more two processes get done than one, with nothing between them."""
    command = [sys.executable, "-c", "for i in range(20_000_000): pass"]
    alone = timed(lambda: subprocess.run(command, check=True))[0]

    def both() -> None:
        pair = [subprocess.Popen(command) for _ in range(2)]
        for process in pair:
            process.wait()

    return 2 * alone / timed(both)[0]


def two_workers(data: Path, *, repeats: int, copies: int, place: Path) -> None:
    """Compare one process with two, on the masks as they are and on many times as many.

    Each in a process of its own, as on the command line, with the loading of OpenCV.
    """
    print("\ntwo workers against one, medians of the ratios within a round")
    control = statistics.median(attainable() for _ in range(repeats))
    print(
        f"  two independent busy loops against one: {control:.2f} x is what the machine gives now"
    )
    for times in (1, copies):
        ratios = []
        for _ in range(repeats):
            took = []
            for workers in ("1", "2"):
                out = place / "workers"
                shutil.rmtree(out, ignore_errors=True)
                told = subprocess.run(
                    [sys.executable, "-c", _WORKERS, str(data), str(out), str(times), workers],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                count, seconds = told.stdout.split()
                took.append(float(seconds))
            ratios.append(took[0] / took[1])
        alone = int(count) / took[0]  # of the last round
        print(f"  {count} masks: {statistics.median(ratios):.2f} x  (one alone: {alone:.0f}/s)")


def many_small(count: int, *, to: str, place: Path) -> None:
    """Convert many small masks in a process of its own; print time and peak memory."""
    root = place / "many"
    rng = np.random.default_rng(0)
    originals = place / "originals"
    originals.mkdir()
    for number in range(100):
        mask = np.zeros((64, 64), np.uint8)
        x, y = rng.integers(4, 50, 2)
        mask[y : y + 10, x : x + 8] = 255
        cv2.imwrite(str(originals / f"{number}.png"), mask)
    for number in range(count):
        for kind in ("images", "masks"):
            folder = root / kind / f"{number // 1000:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06d}.png").hardlink_to(originals / f"{number % 100}.png")
    code = (
        "from toolkit.cli.convert import convert_command as c; from pathlib import Path; "
        f"c(to={to!r}, data=Path({str(root)!r}), out=Path({str(place / 'many-out')!r}), "
        "split='none', classes='single')"
    )
    took = timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))[0]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\n{count} small masks to {to}: {took:.0f} s ({count / took:.0f}/s), peak {peak:.0f} MB")


def main() -> None:
    """Read the options and run what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datumaro-python")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--many", type=int, default=0, help="also convert so many small masks")
    parser.add_argument("--place", type=Path, help="where outputs go, such as /dev/shm")
    parser.add_argument("--many-to", default="yolo")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=options.place) as name:
        place = Path(name)
        if options.many:  # first: its peak memory is that of all children so far
            many_small(options.many, to=options.many_to, place=place)
        second_run(options.data, repeats=options.repeats, place=place)
        two_workers(options.data, repeats=options.repeats, copies=options.copies, place=place)
        bottle(
            options.data,
            datumaro_python=options.datumaro_python,
            repeats=options.repeats,
            place=place,
        )


if __name__ == "__main__":
    main()
