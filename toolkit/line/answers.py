"""The answer to one image: a decision, and what it rests on. Whatever fails is NOK."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.decisions.card import model_sha256
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import RunError
from toolkit.inference.model import Model, load_model
from toolkit.inference.result import Result


@dataclass(frozen=True)
class Answer:
    """The decision on one image.

    Example:
        >>> Answer.failed("timed out", model="patchcore/001").decision.value
        'NOK'

    Attributes:
        decision: OK, REVIEW or NOK.
        score: raw score; None where there is none.
        threshold: score from which on the product is NOK.
        p_value: conformal p-value; None without a calibration card.
        reason: why the image is NOK without a score that says so; empty otherwise.
        model: method, name and the start of the SHA-256 of the model that answered.
        latency_ms: from the arrival of the image to the answer.
        result: the whole result; None where there is none.
    """

    decision: Outcome
    score: float | None
    threshold: float | None
    p_value: float | None
    reason: str
    model: str
    latency_ms: float = 0.0
    result: Result | None = field(default=None, repr=False, compare=False)

    @classmethod
    def failed(cls, reason: str, *, model: str, latency_ms: float = 0.0) -> Answer:
        """Return the NOK of an image that could not be judged."""
        return cls(Outcome.NOK, None, None, None, reason, model, latency_ms)

    @classmethod
    def of(cls, result: Result, *, model: str, latency_ms: float = 0.0) -> Answer:
        """Return the answer that a result gives; NOK where it gives none."""
        decision = result.outcome
        if decision is None or not math.isfinite(result.score):
            return cls.failed("no finite score or threshold", model=model, latency_ms=latency_ms)
        return cls(
            decision, result.score, result.threshold, result.p_value, "", model, latency_ms, result
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values."""
        return {
            "decision": self.decision.value,
            "score": self.score,
            "threshold": self.threshold,
            "p_value": self.p_value,
            "reason": self.reason,
            "model": self.model,
            "latency_ms": round(self.latency_ms, 2),
        }


@dataclass(frozen=True)
class NamedModel:
    """A loaded model and its name in answers.

    Attributes:
        model: the model.
        name: method, name of the run, and the first twelve digits of the model's SHA-256.
    """

    model: Model
    name: str

    @classmethod
    def load(
        cls, run: Path, *, calibration: Path | None = None, engine: str | None = None
    ) -> NamedModel:
        """Load a run for a line, where images come alone or together; see `load_model`."""
        return cls.of(load_model(run, calibration=calibration, engine=engine, streams=0))

    @classmethod
    def of(cls, model: Model) -> NamedModel:
        """Name a model, and predict once, so that the first image is no slower than others.

        Raises:
            RunError: it has no threshold, so that it decides nothing.
        """
        import numpy as np

        run = model.run
        if model.threshold is None:
            raise RunError(
                f"{run.path}: has no threshold, because its validation part was empty; give a card "
                f"of: toolkit calibrate {run.path} --good FOLDER"
            )
        model(np.full((64, 64, 3), 128, np.uint8))
        return cls(model, f"{run.method}/{run.path.name} {model_sha256(run)[:12]}")
