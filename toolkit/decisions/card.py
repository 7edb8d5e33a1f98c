"""Calibration cards: the thresholds of one model, what they promise, and what they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.types import file_sha256
from toolkit.decisions.calibration import Threshold, p_values
from toolkit.decisions.outcomes import Outcome, outcome
from toolkit.errors import RunError, ToolkitError
from toolkit.runs.run import Run
from toolkit.verification.checksums import read_sealed, write_sealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = 1
_KIND = "calibration card"


@dataclass(frozen=True)
class CalibrationCard:
    """The result of a calibration.

    Example:
        >>> card = CalibrationCard.read("calibrations/patchcore-001.json")  # doctest: +SKIP
        >>> card.nok.value, card.nok.promised_false_alarms  # doctest: +SKIP
        (2.31, 0.05)

    Attributes:
        model: `method`, `name` and `sha256` of the run, see `model_sha256`.
        created: local time, ISO 8601.
        nok: threshold from which on a product is NOK.
        review: threshold from which on a person decides; None for no such band.
        good: `folder`; `images`: `name`, `sha256` and `score` of each, highest score first; and
            `cross_fit`: 0, or with how many models the training images were scored.
        suspicious: names of good images whose scores lie far above the others; look at them, since
            an unlabelled defect among the good images raises the threshold.
        defects: `folder`, `images`, `escapes`, `escape_rate` and `interval` (Clopper-Pearson, 95 %,
            of products below the lowest threshold); None without defective images.
        costs: prices and the cheapest threshold; None where no costs were given.
    """

    model: Mapping[str, Any]
    created: str
    nok: Threshold
    review: Threshold | None
    good: Mapping[str, Any]
    suspicious: tuple[str, ...] = ()
    defects: Mapping[str, Any] | None = None
    costs: Mapping[str, Any] | None = None
    path: Path | None = field(default=None, compare=False)

    @cached_property
    def good_scores(self) -> NDArray[np.float64]:
        """Scores of the good calibration images, float64 (n,), highest first."""
        return np.array([image["score"] for image in self.good["images"]], np.float64)

    @property
    def cross_fit(self) -> int:
        """Models that scored the training images, see `cross_fit`; 0: images were held back."""
        return int(self.good.get("cross_fit", 0))

    def outcome(self, score: float) -> Outcome:
        """Return OK, REVIEW or NOK."""
        review = None if self.review is None else self.review.value
        return outcome(score, nok_threshold=self.nok.value, review_threshold=review)

    def p_value(self, score: float) -> float:
        """Return the share of good products that look at least as bad; see `p_values`."""
        return float(p_values([score], self.good_scores)[0])

    def check_model(self, run: Run) -> None:
        """Refuse the card of another model.

        Raises:
            RunError: the run is not the one that was calibrated, or its weights have changed.
        """
        if self.model["sha256"] != model_sha256(run):
            raise RunError(
                f"{self.path or 'card'}: was made for another model "
                f"({self.model['method']}/{self.model['name']}), not for {run.path}; make one with "
                f"toolkit calibrate {run.path} --good FOLDER"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return {
            "kind": _KIND,
            "schema": SCHEMA,
            "model": dict(self.model),
            "created": self.created,
            "nok": asdict(self.nok),
            "review": None if self.review is None else asdict(self.review),
            "good": dict(self.good),
            "suspicious": list(self.suspicious),
            "defects": None if self.defects is None else dict(self.defects),
            "costs": None if self.costs is None else dict(self.costs),
        }

    def write(self, path: Path) -> None:
        """Write the card as JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        write_sealed(path, self.to_dict())

    @classmethod
    def read(cls, path: str | Path) -> CalibrationCard:
        """Read a card.

        Raises:
            RunError: the file is missing, damaged, or no calibration card of this schema.
        """
        path = Path(path)
        try:
            record = read_sealed(path, fix="make one with: toolkit calibrate RUN")
        except ToolkitError as error:
            raise RunError(str(error)) from error
        return cls.from_dict(record, path=path)

    @classmethod
    def from_dict(cls, record: Any, *, path: Path | None = None) -> CalibrationCard:
        """Make a card of JSON values, see `to_dict`; `path` is its file, for messages.

        Raises:
            RunError: they are damaged, or no calibration card of this schema.
        """
        if not isinstance(record, dict) or record.get("kind") != _KIND:
            raise RunError(f"{path}: not a calibration card; make one with: toolkit calibrate RUN")
        if record.get("schema") != SCHEMA:
            raise RunError(
                f"{path}: of schema {record.get('schema')}, this version reads {SCHEMA}; calibrate "
                "again"
            )
        try:
            card = cls(
                model=record["model"],
                created=record["created"],
                nok=Threshold(**record["nok"]),
                review=None if record["review"] is None else Threshold(**record["review"]),
                good=record["good"],
                suspicious=tuple(record["suspicious"]),
                defects=record["defects"],
                costs=record["costs"],
                path=path,
            )
            # Whatever a decision needs is read here, so that a damaged card fails at once.
            json.dumps(card.to_dict(), allow_nan=False)
            card.outcome(card.good_scores[0])
            card.p_value(0.0)
            _ = card.cross_fit
            _ = (card.model["sha256"], card.model["method"], card.model["name"])
        except (KeyError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError,
                ToolkitError) as error:  # fmt: skip
            raise RunError(f"{path}: damaged ({error}); calibrate again") from error
        return card


def model_sha256(run: Run) -> str:
    """Return a SHA-256 that identifies the model of a run, wherever the run was copied to.

    It covers the method, its settings, the split, the data, and every file in `weights/`, also of
    the runs that this one reads.

    Raises:
        DataError: a file cannot be read.
        RunError: a run that this one reads is missing.
    """
    record = run.record
    digest = hashlib.sha256()
    for one in (run.method, record["settings"], record["split"].get("hash"), run.seed,
                record["data"].get("fingerprint")):  # fmt: skip
        digest.update(json.dumps(one, sort_keys=True).encode() + b"\n")
    folder = run.path / "weights"
    files = sorted(f for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else []
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    for role in sorted(record["inputs"]):
        if (other := run.input(role)) is not None:
            digest.update(f"{role} {model_sha256(other)}\n".encode())
    return digest.hexdigest()


def training_sha256(run: Run) -> frozenset[str]:
    """Return the SHA-256 of all images that a run was trained on, and the runs that it reads.

    Raises:
        RunError: a run did not record them.
    """
    stored = run.record["split"].get("train_sha256")
    if not isinstance(stored, list):
        raise RunError(
            f"{run.path}: does not record which images it was trained on, so new ones cannot be "
            "distinguished from them; train it again"
        )
    found = frozenset(stored)
    others = [run.input(role) for role in run.record["inputs"]]
    if base := run.record["settings"].get("base_run"):
        others.append(Run.open(base))
    return found.union(*(training_sha256(other) for other in others if other is not None))
