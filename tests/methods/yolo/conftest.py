"""A split of the synthetic sample, runs on it, and a machine without network or weights."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.methods.yolo.small import TINY, NewRun
from toolkit.config import settings_dict
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.errors import WeightsError
from toolkit.methods.registry import method_class
from toolkit.methods.yolo import text_embeddings
from toolkit.runs.run import Run
from toolkit.weights import resolve


@pytest.fixture
def split(sample_dir: Path) -> Split:
    dataset = load_dataset(sample_dir)
    return make_plan(dataset, folds=3).fold(dataset, 0)


@pytest.fixture
def new_run(tmp_path: Path) -> NewRun:
    def make(name: str, *, run: str = "run", **settings: Any) -> tuple[Any, Run]:
        cls = method_class(name)
        # By default CLIP would be fetched.
        source = {"text_embeddings": "orthonormal"} if name == "yolo-world" else {}
        values = cls.Settings(**{**TINY, **source, **settings})
        record = settings_dict(values)
        made = Run.create(
            tmp_path, method=name, settings=record, split={}, data={}, seed=3, name=run
        )
        return cls(values), made

    return make


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    attempts: list[Any] = []

    def blocked(*args: Any, **kwargs: Any) -> None:
        attempts.append(args)
        raise OSError("blocked")

    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    monkeypatch.setattr(socket.socket, "connect", blocked)
    return attempts


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Path:
        raise WeightsError("not reachable")

    monkeypatch.setattr(resolve, "fetch", fetch)
    monkeypatch.setattr(text_embeddings, "fetch", fetch)
    monkeypatch.setattr(text_embeddings, "find", lambda name: None)
