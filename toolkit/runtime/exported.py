"""Predict with an exported model: `python predict.py IMAGE...` prints one JSON line per image.

Beside this file lie `manifest.json` and the network. Needed are numpy, OpenCV, the engine that the
manifest names (onnxruntime or openvino), and Pillow where SAM segments; neither torch nor the
package that wrote this folder.

    from predict import Exported, read_rgb

    model = Exported.open("exported/patchcore-001")
    answer = model.predict(read_rgb("part.png"))
    print(answer.score, model.decision(answer.score))
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from toolkit.runtime.engines import open_network
from toolkit.runtime.steps import make_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.runtime.answer import Answer
    from toolkit.runtime.engines import Network
    from toolkit.runtime.steps import Steps

SCHEMA = 1
MANIFEST = "manifest.json"
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class ModelError(Exception):
    """An exported model, or an image, cannot be used; one line with the fix."""


@dataclass(frozen=True)
class Exported:
    """An exported model, ready to predict.

    Attributes:
        manifest: the content of `manifest.json`.
        steps: from an image to an answer.
        network: the network, in its engine.
    """

    manifest: Mapping[str, Any]
    steps: Steps
    network: Network

    @classmethod
    def open(cls, folder: str | Path, *, threads: int = 0, streams: int = 1) -> Exported:
        """Open an exported folder.

        Args:
            folder: with `manifest.json`.
            threads: of the processor; 0: as many as `OMP_NUM_THREADS` says, or all.
            streams: images that are computed beside each other.

        Raises:
            ModelError: it is no exported model, is damaged, or its engine is not installed.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for name, digest in manifest["sha256"].items():
            try:
                found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            except OSError as error:
                raise ModelError(f"{folder / name}: cannot be read; export again") from error
            if found != digest:
                raise ModelError(f"{folder / name}: not the file that was exported; export again")
        engine = manifest["engine"]
        try:
            steps, network = open_networks(
                folder, engine, manifest, threads=threads, streams=streams
            )
            return cls(manifest, steps, network)
        except ImportError as error:
            needed = "pillow" if error.name == "PIL" else engine
            raise ModelError(f"{folder}: needs {needed}; pip install {needed}") from error
        except Exception as error:  # each engine raises errors of its own
            raise ModelError(
                f"{folder}: cannot be opened ({_first(error)}); export again"
            ) from error

    def predict(self, image: NDArray[np.uint8]) -> Answer:
        """Return the answer for an RGB image, uint8 (H, W, 3)."""
        try:
            return self.steps.predict(image, self.network)
        except Exception as error:
            raise ModelError(f"the model cannot predict ({_first(error)}); export again") from error

    @property
    def threshold(self) -> float | None:
        """Score from which on an image is defective; None if the run had none."""
        calibration = self.manifest["calibration"]
        value = calibration["nok"] if calibration else self.manifest["threshold"]
        return None if value is None else float(value)

    def decision(self, score: float) -> dict[str, Any]:
        """Return `threshold`, `is_defect`, and with a calibration `outcome` and `p_value`."""
        threshold, calibration = self.threshold, self.manifest["calibration"]
        decided: dict[str, Any] = {
            "threshold": threshold,
            "is_defect": None if threshold is None else not score < threshold,
        }
        if calibration:
            good = calibration["good_scores"]
            worse = sum(one >= score for one in good)
            review = calibration["review"]
            is_ok = math.isfinite(score) and score < calibration["nok"]
            unsure = is_ok and review is not None and score >= review
            decided["outcome"] = "REVIEW" if unsure else "OK" if is_ok else "NOK"
            decided["p_value"] = (1 + worse) / (len(good) + 1)
        return decided


def open_networks(
    folder: Path, engine: str, entry: Mapping[str, Any], *, threads: int = 0, streams: int = 1
) -> tuple[Steps, Network]:
    """Open what an entry of the manifest names: the whole model, or one that it asks.

    Args:
        folder: with the files.
        engine: `onnxruntime` or `openvino`.
        entry: `model`, `precision` and `steps`; `networks` and `prompters` where there are more.
        threads: of the processor, see `open_network`.
        streams: images that are computed beside each other.
    """

    def opened(one: Mapping[str, Any]) -> Network:
        return open_network(
            folder / one["model"], engine, one["precision"], threads=threads, streams=streams
        )

    networks = {name: opened(one) for name, one in entry.get("networks", {}).items()}
    prompters = {}
    for role, other in entry.get("prompters", {}).items():
        steps, network = open_networks(folder, engine, other, threads=threads, streams=streams)
        prompters[role] = partial(_ask, steps, network)
    return make_steps(entry["steps"], networks, prompters), opened(entry)


def _ask(steps: Steps, network: Network, image: NDArray[np.uint8]) -> Answer:
    return steps.predict(image, network)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of an exported folder.

    Raises:
        ModelError: there is none, or it is damaged or of another schema.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a readable manifest; export again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ModelError(f"{path}: of another schema than {SCHEMA}; export again")
    stored = manifest.pop("checksum", None)  # exports of older versions have none
    text = json.dumps(manifest, sort_keys=True)
    if stored is not None and stored != hashlib.sha256(text.encode()).hexdigest()[:16]:
        raise ModelError(f"{path}: changed since it was written; export again")
    needed = ("sha256", "engine", "model", "precision", "steps", "threshold", "calibration")
    missing = [key for key in needed if key not in manifest]
    if missing:
        raise ModelError(f"{path}: damaged (no {missing[0]}); export again")
    try:
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{path}: damaged ({_first(error)}); export again") from error
    return manifest


def _check(manifest: Mapping[str, Any]) -> None:
    """Check what decisions and opened files depend on.

    Raises:
        ValueError: a threshold is not finite, or the model is no file of the folder.
    """
    files, calibration = manifest["sha256"], manifest["calibration"]
    if any(Path(name).name != name for name in files) or not set(_models(manifest)) <= set(files):
        raise ValueError("the model is not among its files")
    if manifest["engine"] not in ("onnxruntime", "openvino"):
        raise ValueError("an unknown engine")
    limits = [manifest["threshold"]]
    if calibration is not None:
        limits += [calibration["nok"], calibration["review"], *calibration["good_scores"]]
        if calibration["nok"] is None or not calibration["good_scores"]:
            raise ValueError("calibration")
    for limit in limits:
        if limit is not None and (isinstance(limit, bool) or not math.isfinite(limit)):
            raise ValueError("a threshold that is no number")


def _models(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all network files."""
    yield entry["model"]
    for one in entry.get("networks", {}).values():
        yield one["model"]
    for other in entry.get("prompters", {}).values():
        yield from _models(other)


def read_rgb(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image file as RGB, uint8 (H, W, 3); its EXIF rotation is not applied.

    Raises:
        ModelError: it cannot be read, or is cut short.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    whole = {b"\x89PN": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}.get(data[:3], b"")
    image = None
    if whole in data[-1024:]:
        kind = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), kind) if data else None
        except cv2.error:  # a head that names more pixels than OpenCV takes
            image = None
    if image is None:
        raise ModelError(f"{path}: not a readable image (damaged or cut short); replace the file")
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def record_of(answer: Answer, decision: Mapping[str, Any], image: str) -> dict[str, Any]:
    """Return an answer as JSON values, without its map."""
    record: dict[str, Any] = {"image": image, "score": answer.score, **decision}
    if answer.class_probabilities is not None:
        record["class_probabilities"] = answer.class_probabilities
    if answer.boxes is not None:
        rows = zip(answer.boxes.xyxy.tolist(), answer.boxes.scores.tolist(), answer.boxes.labels,
                   strict=True)  # fmt: skip
        record["boxes"] = [{"box_xyxy": b, "score": s, "label": name} for b, s, name in rows]
    return record


def main() -> None:
    """Predict the images that the command line names, one JSON line each.

    The exit status is 1 where an image could not be read, and 2 where the model cannot be used.
    """
    parser = argparse.ArgumentParser(description="Predict images, one JSON line each.")
    parser.add_argument("images", nargs="+", type=Path, help="files and folders")
    parser.add_argument(
        "--maps", type=Path, help="folder for anomaly maps, NAME.npy, and masks, NAME.png"
    )
    options = parser.parse_args()
    status = 0
    try:
        model = Exported.open(Path(__file__).resolve().parent)
    except ModelError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for number, path in enumerate(_files(options.images)):
        try:
            answer = model.predict(read_rgb(path))
        except ModelError as error:
            print(f"left out: {error}", file=sys.stderr)
            status = 1
            continue
        print(json.dumps(record_of(answer, model.decision(answer.score), str(path))), flush=True)
        if options.maps is not None:
            options.maps.mkdir(parents=True, exist_ok=True)
            name = options.maps / f"{number:06d}-{path.stem}"
            if answer.anomaly_map is not None:
                np.save(f"{name}.npy", answer.anomaly_map)
            if answer.mask is not None:
                cv2.imwrite(f"{name}.png", answer.mask.astype(np.uint8) * 255)
    sys.exit(status)


def _files(places: list[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from (f for f in sorted(place.rglob("*")) if f.suffix.lower() in _IMAGES)
        else:
            yield place


if __name__ == "__main__":
    main()
