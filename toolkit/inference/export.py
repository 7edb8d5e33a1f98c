"""Export a finished run to a folder that predicts without torch; kept only if it agrees."""

from __future__ import annotations

import ast
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit import __version__
from toolkit.data.images import read_rgb
from toolkit.data.types import file_sha256
from toolkit.decisions.card import CalibrationCard, model_sha256
from toolkit.errors import ConfigError, ParityError, RunError
from toolkit.files import atomic_folder, write_text
from toolkit.inference.engine_files import write_network
from toolkit.inference.parity import Precision, compare_validation
from toolkit.inference.plot import validation_heat_range
from toolkit.inference.quantize import quantize_onnx, quantize_openvino
from toolkit.methods.base import EnginePredictor, Exported, Method, Predictor
from toolkit.runs.run import Run
from toolkit.runtime import answer, boxes, engines, exported, prompts, segmentation, steps, tiles
from toolkit.runtime.engines import openvino_core
from toolkit.runtime.exported import open_networks
from toolkit.verification.checksums import write_sealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.types import Dataset, Sample
    from toolkit.methods.base import Graph

Say = Callable[[str], None]

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}
PRECISIONS: dict[str, Precision] = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
_CALIBRATION_IMAGES = 128


def export_run(
    run: Run,
    method: Method[Any],
    dataset: Dataset,
    out: Path,
    *,
    form: str = "onnx",
    precision: str = "fp32",
    calibration: CalibrationCard | None = None,
    overwrite: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Write a folder with the network, `manifest.json` and `predict.py`.

    A precision that fails the gate falls back: int8 to bfloat16 (OpenVINO), then to float32.

    Args:
        run: a finished run.
        method: its method.
        dataset: the data that it was made on, for calibration images and the gate.
        out: the folder to make.
        form: `onnx` or `openvino`.
        precision: `fp32`, `bf16` or `int8`.
        calibration: a card whose thresholds replace that of the run.
        overwrite: whether an existing folder may be replaced.
        say: called with one line per precision that was tried.

    Returns:
        The manifest.

    Raises:
        ConfigError: an unknown format or precision.
        ParityError: float32 differs, too; nothing is written.
        RunError: the run is not finished, or its method has no such export.
        OutputError: the folder is there already or cannot be written.
    """
    metrics = run.metrics()
    if calibration is not None:
        calibration.check_model(run)
    predictor = method.load(replace(run, record={**run.record, "device": "cpu"}))
    with atomic_folder(out, overwrite=overwrite) as folder, tempfile.TemporaryDirectory() as work:
        writer = _Writer(run, dataset, form, folder, Path(work))
        for number in _from(precision, form):
            entry = writer.write(predictor, number)
            opened = open_networks(folder, ENGINES[form], entry)
            gate = compare_validation(run, dataset, EnginePredictor.of_steps(*opened), number)
            say(f"{form} {number}: {'kept' if gate.passed else 'not kept'}; {gate}")
            if gate.passed:
                break
            for path in folder.iterdir():
                path.unlink()
        else:
            raise ParityError(f"{run.path}: export and run differ ({gate}); nothing was written")
        manifest = {
            "schema": exported.SCHEMA,
            "toolkit": __version__,
            "method": run.method,
            "run": run.path.name,
            "run_sha256": model_sha256(run),
            "split": run.record["split"]["hash"],
            "fingerprint": run.record["data"]["fingerprint"],
            "weights": run.metadata.get("weights"),
            "weights_source": run.metadata.get("weights_source"),
            "score": run.metadata.get("score_description"),
            "engine": ENGINES[form],
            **entry,
            "sha256": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
            "predict_sha256": hashlib.sha256(single_file().encode()).hexdigest(),
            "classes": sorted(metrics.get("boxes", {}).get("ap50_by_class", {})),
            "threshold": metrics["thresholds"][0],
            "calibration": None if calibration is None else _calibration(calibration),
            "heat_range": validation_heat_range(run),
            "compared": {
                "images": gate.images,
                "difference": gate.difference,
                "tolerance": gate.tolerance,
                "decided_otherwise": gate.decisions,
                "metrics": gate.metrics,
            },
        }
        write_sealed(folder / exported.MANIFEST, manifest)
        write_text(folder / "predict.py", single_file())
    return manifest


def single_file() -> str:
    """Return the modules of `toolkit.runtime` as one program that imports none of this package."""
    parts = []
    for module in (exported, answer, boxes, tiles, prompts, segmentation, steps, engines):
        source = Path(module.__file__ or "").read_text(encoding="utf-8")
        lines = source.splitlines()
        tree = ast.parse(source)
        old: list[ast.stmt] = [tree.body[0]]  # the docstring
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                ("toolkit.", "__future__")
            ):
                old.append(node)
        for node in old:
            for line in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[line] = ""
        text = "\n".join(lines)
        parts.append(text.split('if __name__ == "__main__":')[0].strip())
    head = f'"""{exported.__doc__}"""\n\nfrom __future__ import annotations\n\n'
    body = "\n\n\n".join([*parts[1:], parts[0]])
    return f'{head}{body}\n\n\nif __name__ == "__main__":\n    main()\n'


def _from(precision: str, form: str) -> list[Precision]:
    """Return a precision and those to fall back to, one step after the other."""
    if form not in ENGINES:
        raise ConfigError(f"--to {form}: unknown; use onnx or openvino")
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: unknown; use {', '.join(PRECISIONS)}")
    steps_down: list[Precision] = ["int8", "bfloat16", "float32"]
    left = steps_down[steps_down.index(PRECISIONS[precision]) :]
    return [one for one in left if one != "bfloat16" or form == "openvino"]


@dataclass(frozen=True)
class _Writer:
    """Writes the networks of a predictor, and of those that it asks, into a folder.

    Attributes:
        run: whose networks they are.
        dataset: with its training images, which calibrate int8.
        form: `onnx` or `openvino`.
        folder: of the export.
        work: keeps the networks as ONNX in float32.
    """

    run: Run
    dataset: Dataset
    form: str
    folder: Path
    work: Path

    def write(self, predictor: Predictor, precision: Precision, prefix: str = "") -> dict[str, Any]:
        """Write all networks; return their entry of the manifest.

        Raises:
            RunError: a predictor needs torch, or ONNX cannot express a network.
        """
        around, graph = predictor.steps(), predictor.graph()
        if around is None or graph is None:
            raise RunError(
                f"{self.run.path}: {self.run.method} has no such export with these settings; use: "
                "toolkit predict"
            )
        entry: dict[str, Any] = {
            "model": self._file(graph, f"{prefix}model", precision, predictor),
            "precision": precision,
            "steps": around,
        }
        for name, part in predictor.parts().items():
            # They have no convolutions, which are all that int8 is of use for.
            own: Precision = "float32" if part.float32_only or precision == "int8" else precision
            file = self._file(part, f"{prefix}{name}", own)
            entry.setdefault("networks", {})[name] = {"model": file, "precision": own}
        for role, other in predictor.prompters().items():
            written = self.write(other, precision, f"{prefix}{role}-")
            entry.setdefault("prompters", {})[role] = written
        return entry

    def _file(
        self, graph: Graph, stem: str, precision: Precision, calibrating: Predictor | None = None
    ) -> str:
        network = self.work / f"{stem}.onnx"
        if not network.exists():
            write_network(graph, network, self.run.path)
        name = f"{stem}.onnx" if self.form == "onnx" else f"{stem}.xml"
        if precision == "int8" and calibrating is not None:
            samples = _training_images(self.run, self.dataset)
            inputs = list(_calibration_inputs(calibrating, samples))
            quantize = quantize_onnx if self.form == "onnx" else quantize_openvino
            quantize(network, self.folder / name, inputs)
        elif self.form == "onnx":
            (self.folder / name).write_bytes(network.read_bytes())
        else:
            import openvino

            model = openvino_core().read_model(str(network))
            openvino.save_model(model, str(self.folder / name), compress_to_fp16=False)
        return name


def _training_images(run: Run, dataset: Dataset) -> list[Sample]:
    names = [name for name in run.record["split"]["train"] if name in dataset.by_id]
    if not names:
        raise RunError(f"{run.path}: no training image in {dataset.root}; give the right --data")
    count = min(len(names), _CALIBRATION_IMAGES)
    return [dataset.by_id[names[i * len(names) // count]] for i in range(count)]


def _calibration_inputs(
    predictor: Predictor, samples: Sequence[Sample]
) -> Iterator[NDArray[np.uint8]]:
    """Yield what the network sees of images."""
    graph = predictor.graph()
    assert graph is not None
    seen: list[NDArray[np.uint8]] = []

    def record(image: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        import torch

        seen.append(image.copy())
        with torch.inference_mode():
            return [one.numpy() for one in graph.module(torch.from_numpy(image))]

    recorder = predictor.with_engine(record)
    for sample in samples:
        recorder.predict([read_rgb(sample.image)])
        if seen:  # where another model prompts and finds nothing, nothing is computed
            yield seen[0]  # of several views the first
            seen.clear()


def _calibration(card: CalibrationCard) -> dict[str, Any]:
    return {
        "nok": card.nok.value,
        "review": None if card.review is None else card.review.value,
        "good_scores": card.good_scores.tolist(),
        "card": card.to_dict(),
    }


def export_files(
    run: Run, export: Callable[[Path], Exported], out: Path, *, overwrite: bool = False
) -> Exported:
    """Let a method write files for other programs; kept only if they agree.

    Args:
        run: a finished run.
        export: writes files into the folder that it is given and compares them with the run.
        out: the folder to make; `export.json` in it says what was compared.
        overwrite: whether an existing folder may be replaced.

    Raises:
        RunError: the run is not finished.
        ParityError: export and run differ by more than the tolerance, or a difference is not a
            number; nothing is kept.
        OutputError: the folder is there already or cannot be written.
    """
    run.metrics()
    with atomic_folder(out, overwrite=overwrite) as folder:
        done = export(folder)
        if not done.max_difference <= done.tolerance:
            raise ParityError(
                f"{run.path}: export and run differ by {done.max_difference:.3g} "
                f"({done.checked}; allowed {done.tolerance:.3g}); nothing was written"
            )
        write_sealed(
            folder / "export.json",
            {
                "method": run.method,
                "run": run.path.name,
                "split": run.record["split"]["hash"],
                "fingerprint": run.record["data"]["fingerprint"],
                "threshold": None if done.no_threshold else run.metrics()["thresholds"][0],
                **({"no_threshold": done.no_threshold} if done.no_threshold else {}),
                "weights": run.metadata.get("weights"),
                "weights_source": run.metadata.get("weights_source"),
                "files": list(done.files),
                "sha256": {
                    path.relative_to(folder).as_posix(): file_sha256(path)
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                },
                "checked": done.checked,
                "max_difference": done.max_difference,
                "tolerance": done.tolerance,
            },
        )
    return done
