"""Faults that the other tests of this folder have found, each by a plain example."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import TinyRuns
from toolkit.decisions.outcomes import Outcome
from toolkit.errors import RunError, ToolkitError, WeightsError
from toolkit.line.answers import Answer
from toolkit.line.ledger import Ledger, LedgerError
from toolkit.methods.classifier.checkpoint import read_last
from toolkit.runs.prediction_io import read_predictions

OK = Answer(Outcome.OK, 1.5, 4.0, 0.3, "", "m", 12.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"seconds": [1.0]},
        {"seconds": "fast"},
        {"score": None},
        {"score": True},
        {"id": None},
        {"class_probabilities": {"good": None}},
        {"class_probabilities": []},
        {"boxes": {"xyxy": [[0, 0, 1, 1]], "scores": [], "labels": ["a"]}},
        {"boxes": {"xyxy": [], "scores": [0.5], "labels": []}},
        {"anomaly_map": 3},
    ],
)
def test_a_stored_prediction_with_absurd_values(changed: dict[str, object], tmp_path: Path) -> None:
    record = {"schema": 1, "id": "a.png", "score": 0.5, "seconds": 0.1}
    (tmp_path / "test.jsonl").write_text(json.dumps({**record, **changed}) + "\n")
    with pytest.raises(RunError, match=r"test\.jsonl: line 1 is damaged"):
        list(read_predictions(tmp_path, "test"))


def test_a_checkpoint_to_continue_from_with_a_wrong_reference(tmp_path: Path) -> None:
    data = io.BytesIO()
    torch.save({"a": torch.zeros(2), "epoch": 3}, data)
    whole = data.getvalue()
    refused = 0
    for at in range(0, len(whole), 3):
        (tmp_path / "last.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            read_last(tmp_path / "last.pt")
        except WeightsError:
            refused += 1
    assert refused


def test_half_a_character_in_a_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(OK, image="\ud800.png", sha256="1")
    assert ledger.answers()[0]["image"] == "\\ud800.png"


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("UPDATE outbox SET event = '{'", lambda ledger: ledger.pending("one")),
        ("UPDATE answers SET time = 'soon'", lambda ledger: ledger.answers()),
        ("UPDATE answers SET time = 1e300", lambda ledger: ledger.stats()),
        ("UPDATE answers SET latency_ms = NULL", lambda ledger: ledger.stats()),
        ("UPDATE differences SET live = '{'", lambda ledger: ledger.differences()),
    ],
)
def test_a_damaged_ledger(change: str, read: Callable[[Ledger], object], tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(OK, image="1.png", sha256="1", sinks=["one"])
    ledger.add_difference(OK, OK)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        try:
            db.execute(change)
        except sqlite3.IntegrityError:
            pytest.skip("the table refuses it")
    db.close()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite: damaged"):
        read(ledger)


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, tiny_runs: TinyRuns, sample_dir: Path
) -> Path:
    from toolkit.data.layouts import load_dataset
    from toolkit.inference.export import export_run
    from toolkit.methods.registry import load_method

    run, out = tiny_runs("padim"), tmp_path_factory.mktemp("exported") / "export"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_HOME", str(tmp_path_factory.mktemp("home")))
        export_run(run, load_method(run), load_dataset(sample_dir), out, say=lambda line: None)
    return out


@pytest.fixture
def export(exported: Path, tmp_path: Path) -> Path:
    """A copy of the export, which the test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "export"))


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": "high"},
        {"threshold": float("nan")},
        {"model": "../../etc/passwd"},
        {"engine": "none"},
        {"steps": {}},
        {"steps": None},
        {"sha256": []},
        {"calibration": {"nok": None, "review": None, "good_scores": []}},
        {"calibration": []},
        {"heat_range": [1]},
        {"classes": 3},
    ],
)
def test_an_export_that_somebody_has_changed(changed: dict[str, object], export: Path) -> None:
    from toolkit.inference.model import load_model
    from toolkit.verification.checksums import sealed

    manifest = export / "manifest.json"
    manifest.write_text(json.dumps(sealed({**json.loads(manifest.read_text()), **changed})))
    with pytest.raises(ToolkitError):
        load_model(export).predict(np.zeros((64, 64, 3), np.uint8))


def test_an_export_with_another_network(export: Path) -> None:
    import hashlib

    from toolkit.inference.model import load_model
    from toolkit.runtime.exported import Exported, ModelError
    from toolkit.verification.checksums import sealed

    network, manifest = export / "model.onnx", export / "manifest.json"
    network.write_bytes(network.read_bytes()[:-200])
    record = json.loads(manifest.read_text())
    record["sha256"]["model.onnx"] = hashlib.sha256(network.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(sealed(record)))
    with pytest.raises(ModelError, match=r"cannot be opened|cannot predict"):
        Exported.open(export).predict(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(RunError, match=r"cannot be opened|cannot predict"):
        load_model(export).predict(np.zeros((64, 64, 3), np.uint8))


def test_an_error_never_commands_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolkit.cli.main import main

    monkeypatch.setattr(sys, "argv", ["toolkit", "verify", str(tmp_path / "\x1b[31m\u202egnp")])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert r"\x1b[31m\u202egnp: no such file" in error
    assert not {"\x1b", "\u202e"} & set(error)


def test_a_cut_of_the_checksum_of_a_cached_array(tmp_path: Path) -> None:
    from toolkit.array_cache import ArrayCache

    cache = ArrayCache("kind", {}, shape=(4,), dtype=np.float32, folder=tmp_path)
    cache.put("key", np.ones(4, np.float32))
    path = cache.path("key")
    path.write_bytes(path.read_bytes()[:-3])
    assert cache.get("key") is None


def test_copies_of_a_run_stay_verified(tmp_path: Path, tiny_runs: TinyRuns) -> None:
    from toolkit.benchmarking.merge import merge_runs
    from toolkit.verification.verify import verify

    shutil.copytree(tiny_runs("padim").path, tmp_path / "one/padim/a")
    merge_runs([tmp_path / "one"], tmp_path / "merged")
    found = verify([tmp_path / "merged"])
    assert found.files > 5
    assert (found.damaged, found.unchecked) == ([], [])


@pytest.mark.parametrize("changed", ["id", "slot", "fingerprint"])
def test_a_split_file_that_somebody_has_sealed_again(
    changed: str, tmp_path: Path, sample_dir: Path
) -> None:
    from toolkit.data.layouts import load_dataset
    from toolkit.data.protocols import make_plan
    from toolkit.data.splits import SplitPlan, _checksum
    from toolkit.errors import DataError

    dataset, path = load_dataset(sample_dir), tmp_path / "a.split.json"
    make_plan(dataset, protocol="supervised").write(path)
    record = json.loads(path.read_text())
    del record["checksum"]
    if changed == "fingerprint":
        record["fingerprint"] = 3
    else:
        record["slots"][0][changed] = {"id": "none.png", "slot": "elsewhere"}[changed]
    path.write_text(json.dumps({**record, "checksum": _checksum(record)}))
    with pytest.raises(DataError):
        SplitPlan.read(path).fold(dataset, 0)


def test_names_that_are_too_long(tmp_path: Path) -> None:
    from toolkit.config import find_config
    from toolkit.errors import ConfigError
    from toolkit.files import OutputError, short_name
    from toolkit.reporting.write import report

    with pytest.raises(ConfigError, match="no such config"):
        find_config("x" * 5000)
    with pytest.raises(OutputError, match="cannot be written"):
        report(tmp_path, out=tmp_path / ("x" * 300))
    first, second = (short_name("é" * 150 + end) for end in "ab")
    assert first != second
    assert len(first.encode()) <= 200


@pytest.mark.parametrize(
    "changed",
    [
        {"data": "x"},
        {"split": []},
        {"settings": "x"},
        {"settings": {"target_fpr": [0.0]}},
        {"data": {"root": 3}},
    ],
)
def test_a_record_of_a_run_of_another_kind(
    changed: dict[str, object], tmp_path: Path, tiny_runs: TinyRuns
) -> None:
    from toolkit.runs.evaluate import evaluate

    shutil.copytree(tiny_runs("padim").path, tmp_path / "run")
    path = tmp_path / "run/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(RunError, match=r"run\.json: damaged"):
        evaluate(tmp_path / "run")


def test_a_gzip_file_cut_in_its_head(tmp_path: Path) -> None:
    import gzip

    from toolkit.data.archive import unpack
    from toolkit.errors import DataError

    whole = gzip.compress(b"x" * 100)
    for size in range(1, 20):
        (tmp_path / "a.tar.gz").write_bytes(whole[:size])
        with pytest.raises(DataError):
            unpack(tmp_path / "a.tar.gz", tmp_path, folder="bottle")


def test_a_key_that_is_no_text() -> None:
    from toolkit.errors import ConfigError
    from toolkit.methods.registry import make_method

    with pytest.raises(ConfigError, match="unknown key '5'"):
        make_method("padim", {5: "x"}, source="a.yaml")  # type: ignore[dict-item]


def test_a_folder_that_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below /proc folders come and go while they are listed."""
    from toolkit.runs.run import find_runs

    def listed(*_: object) -> None:
        raise OSError(22, "Invalid argument", "/proc/1/task/1/net")

    monkeypatch.setattr(Path, "rglob", listed)
    with pytest.raises(RunError, match="/proc/1/task/1/net: cannot be searched"):
        find_runs([tmp_path])


def test_a_head_with_too_many_pixels(tmp_path: Path) -> None:
    """OpenCV raises for these, where it returns nothing for others."""
    from PIL import Image

    from toolkit.runtime.exported import ModelError, read_rgb

    data = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(data, "BMP")
    head = bytearray(data.getvalue())
    head[22:26] = (2**30).to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(head)
    with pytest.raises(ModelError, match="not a readable image"):
        read_rgb(tmp_path / "a.bmp")


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (OSError(36, "File name too long", "x" * 300), "File name too long; check the name"),
        (OSError(24, "Too many open files", "a"), "a: Too many open files; allow more open files"),
        (RuntimeError("could not create a primitive"), "out of memory"),
    ],
)
def test_what_the_system_refuses_anywhere(
    raised: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from toolkit.cli import main as program

    def refuse(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(program, "app", refuse)
    monkeypatch.setattr(sys, "argv", ["toolkit", "evaluate", "a"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in error
    assert error.count("\n") == 1
