"""Measure `toolkit predict` on many images against the network alone, and decoders of images.

    python benchmarks/throughput.py predict DATA [--images 10000] [--method patchcore]
    python benchmarks/throughput.py decode DATA

`predict` trains a method on a category in MVTec layout, makes 800x800 PNGs of its test images (200
different ones, the others are links), and predicts all of them into a folder without pictures. The
network alone runs in the same process, with as many streams, on inputs that lie in memory. `decode`
writes test images as 800x800 PNG and JPEG and decodes them by every decoder in turn. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

import toolkit
from toolkit.data.images import read_rgb
from toolkit.inference.predict import predict_to_folder
from toolkit.runs.environment import environment, forget_peak_memory, peak_memory_bytes
from toolkit.runtime.engines import default_threads

SIDE, DIFFERENT = 800, 200


def main() -> None:
    """Parse the options, measure, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["predict", "decode"])
    parser.add_argument("data", type=Path, help="folder of a category in MVTec layout")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--method", default="patchcore")
    parser.add_argument("--engine", default="openvino")
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment(), "threads": default_threads()}
    with tempfile.TemporaryDirectory() as folder:
        pictures = make_pictures(options.data, Path(folder) / "in", options.images)
        if options.what == "decode":
            record |= decoders(pictures[:DIFFERENT])
        else:
            record |= prediction(options, pictures[0].parent, Path(folder))
    print(json.dumps(record, indent=2))


def make_pictures(data: Path, folder: Path, count: int) -> list[Path]:
    """Write test images as PNG of 800x800 pixels, shifted a little, so that all are different."""
    folder.mkdir()
    files = sorted(f for f in data.glob("test/*/*") if f.is_file())
    draw, made = np.random.default_rng(0), []
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if number < DIFFERENT:
            image = cv2.resize(read_rgb(files[number % len(files)]), (SIDE, SIDE))
            image = np.roll(image, draw.integers(-9, 10, 2), axis=(0, 1))
            cv2.imwrite(str(path), image[..., ::-1])
        else:
            os.link(made[number % DIFFERENT], path)
        made.append(path)
    return made


def prediction(options: argparse.Namespace, pictures: Path, folder: Path) -> dict[str, Any]:
    """Return images per second of the command and of the network, and the memory beyond it."""
    run = toolkit.train(options.method, options.data, runs=folder / "runs", device="cpu")
    threads = default_threads()
    model = toolkit.load_model(run, engine=options.engine, streams=threads)
    engine = model._predictor.engine
    assert engine is not None
    seen: list[np.ndarray] = []
    model._predictor.engine = lambda image: (seen.append(image.copy()), engine(image))[1]
    model(sorted(pictures.iterdir())[:8])
    calls = max(200, options.images // 20)
    alone = network_alone(engine, seen, calls, threads)
    del model
    out, lines = folder / "out", 0
    forget_peak_memory()
    before = peak_memory_bytes()
    first = 0.0
    started = time.perf_counter()

    def note(_: str) -> None:
        nonlocal first, lines
        first, lines = first or time.perf_counter(), lines + 1

    predict_to_folder(
        run.path, [pictures], out, engine=options.engine, pictures="none", on_error=print,
        on_line=note, say=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    ended = time.perf_counter()
    assert lines == options.images == len((out / "predictions.jsonl").read_text().splitlines())
    rate = (lines - 1) / (ended - first)
    again = network_alone(open_again(run, options.engine, threads), seen, calls, threads)
    network = (alone + again) / 2
    return {
        "method": options.method,
        "images": lines,
        "images_per_second": round(rate, 1),
        "network_alone_per_second": [round(alone, 1), round(again, 1)],
        "share_of_the_network": round(rate / network, 3),
        "seconds_to_the_first_answer": round(first - started, 2),
        "memory_beyond_mb": round((peak_memory_bytes() - before) / 2**20),
    }


def open_again(run: toolkit.Run, engine: str, threads: int) -> Callable[[Any], Any]:
    """Return the network of a run once more."""
    found = toolkit.load_model(run, engine=engine, streams=threads)._predictor.engine
    assert found is not None
    return found


def network_alone(
    engine: Callable[[Any], Any], inputs: list[np.ndarray], calls: int, threads: int
) -> float:
    """Return calls per second of a network that has nothing to wait for."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(engine, [inputs[i % len(inputs)] for i in range(4 * threads)]))
        started = time.perf_counter()
        list(pool.map(engine, [inputs[i % len(inputs)] for i in range(calls)]))
        return calls / (time.perf_counter() - started)


def decoders(files: list[Path]) -> dict[str, Any]:
    """Return milliseconds per image and the largest difference from OpenCV, per decoder."""
    from kornia_rs import io

    def opencv(data: bytes) -> np.ndarray:
        return cv2.cvtColor(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )

    shape = (SIDE, SIDE)
    png: dict[str, Callable[[bytes], np.ndarray]] = {
        "opencv": opencv,
        "kornia_rs": lambda data: io.decode_image_png_u8(data, shape, "rgb"),
    }
    jpeg: dict[str, Callable[[bytes], np.ndarray]] = {
        "opencv": opencv,
        "kornia_rs": lambda data: io.decode_image_jpegturbo(data, "rgb"),
    }
    try:
        import simplejpeg

        jpeg["simplejpeg"] = simplejpeg.decode_jpeg
        jpeg["simplejpeg, half size"] = lambda data: simplejpeg.decode_jpeg(
            data, min_height=SIDE // 2, min_width=SIDE // 2
        )
    except ImportError:
        print("simplejpeg is not installed, so it is left out", file=sys.stderr)
    found: dict[str, Any] = {}
    for kind, ways in (("PNG", png), ("JPEG, quality 95", jpeg)):
        contents = [file.read_bytes() for file in files]
        if kind != "PNG":
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            contents = [cv2.imencode(".jpg", opencv(one)[..., ::-1], quality)[1].tobytes()
                        for one in contents]  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in ways}
        apart = dict.fromkeys(ways, 0)
        for data in contents:
            wanted = opencv(data).astype(int)
            for name, decode in ways.items():
                started = time.perf_counter()
                image = decode(data)
                times[name].append(1000 * (time.perf_counter() - started))
                if image.shape == wanted.shape:
                    apart[name] = max(apart[name], int(np.abs(image - wanted).max()))
        found[kind] = {
            name: {
                "ms": round(statistics.median(times[name]), 2),
                "quartiles": [round(float(q), 2) for q in np.percentile(times[name], [25, 75])],
                "differs": apart[name],
            }
            for name in ways
        }
    return found


if __name__ == "__main__":
    main()
