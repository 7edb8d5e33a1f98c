"""Mutated input of every kind gives a value or one line, never a traceback, and in seconds.

Some cases of each target here; `make trust` tries 20,000 of each (`TOOLKIT_FUZZ`). The cases are
numbers, from which the mutation follows, so that a failure is repeated by its number.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.line.conftest import card, grey_run, level, make_station, model, named, png, said
from tests.tiny import TinyRuns
from tests.trust.mutate import json_bytes, mutated, mutated_json, mutated_words
from toolkit.data.archive import unpack
from toolkit.data.images import (
    image_size,
    read_mask,
    read_mask_values,
    read_regions,
    read_rgb,
    whole_image_size,
)
from toolkit.data.layouts import load_dataset
from toolkit.data.splits import SplitPlan
from toolkit.data.synthetic import make_sample
from toolkit.errors import ToolkitError
from toolkit.line.station import Station
from toolkit.runs.run import Run

__all__ = ["card", "grey_run", "level", "make_station", "model", "named", "said"]

CASES = int(os.environ.get("TOOLKIT_FUZZ", "60"))
SECONDS = 10
fuzz = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=CASES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
numbers = st.integers(0, 2**48)


@contextlib.contextmanager
def refused(*kinds: type[BaseException]) -> Iterator[None]:
    """Allow errors of the toolkit, and no more than some seconds."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ToolkitError, *kinds):
        pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def encoded() -> dict[str, bytes]:
    """Return a small image in every kind of file that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(noise)
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "rgb.png": (picture, "PNG", {}),
        "grey.png": (picture.convert("L"), "PNG", {}),
        "palette.png": (picture.convert("P"), "PNG", {}),
        "bits.png": (picture.convert("1"), "PNG", {}),
        "rgba.png": (picture.convert("RGBA"), "PNG", {}),
        "deep.png": (Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "a.jpg": (picture, "JPEG", {}),
        "progressive.jpg": (picture, "JPEG", {"progressive": True}),
        "a.bmp": (picture, "BMP", {}),
        "a.tif": (picture, "TIFF", {}),
        "packed.tif": (picture, "TIFF", {"compression": "tiff_lzw"}),
        "a.webp": (picture, "WEBP", {}),
        "exact.webp": (picture, "WEBP", {"lossless": True}),
    }
    found = {}
    for name, (image, kind, options) in kinds.items():
        data = io.BytesIO()
        image.save(data, kind, **options)
        found[name] = data.getvalue()
    return found


PICTURES = encoded()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def data(work: Path) -> Path:
    return make_sample(work / "data", seed=2, size=64, train_good=3, test_good=4, per_defect=4)


@pytest.fixture(autouse=True)
def _counted(record_property: Callable[[str, object], None]) -> Iterator[None]:
    record_property("cases", CASES)
    with np.errstate(all="ignore"):
        yield


@fuzz
@given(number=numbers, name=st.sampled_from(sorted(PICTURES)))
def test_images_and_masks(work: Path, number: int, name: str) -> None:
    from toolkit.runtime import exported

    path = work / name
    path.write_bytes(mutated(PICTURES[name], number))
    for read in (read_rgb, read_mask, read_mask_values, image_size, whole_image_size):
        with refused():
            read(path)
    with refused(exported.ModelError):
        exported.read_rgb(path)


YAML = """\
name: small
protocol: supervised
n_folds: 3
folds: [0, 1]
seeds: [0]
columns: [auroc, image.ap]
methods:
  - config: padim/default
    name: padim
    overrides: {weights: none, image_size: 64, n_features: 8}
    published: {value: 0.75, source: paper, column: auroc}
    resources: {cpus: 1, memory: 2GB}
  - config: sam/default
    prompt_run: padim
"""


@fuzz
@given(number=numbers, structured=st.booleans())
def test_benchmark_files(work: Path, number: int, structured: bool) -> None:
    import yaml

    from toolkit.benchmarking.grid import read_benchmark, training_tasks
    from toolkit.benchmarking.plan import check_config

    path = work / "grid.yaml"
    if structured:
        content = json_bytes(mutated_json(yaml.safe_load(YAML), number))
    else:
        content = mutated(YAML.encode(), number)
    path.write_bytes(content)
    with refused():
        config = read_benchmark(str(path))
        check_config(config, device="cpu")
        if len(config.seeds) * len(config.entries) * config.n_folds < 10_000:
            training_tasks(config)


@fuzz
@given(number=numbers, method=st.sampled_from(["padim", "classifier", "sam", "yolo", "patchcore"]))
def test_settings(work: Path, number: int, method: str) -> None:
    from toolkit.config import settings_dict
    from toolkit.methods.registry import make_method, method_class
    from toolkit.training import read_method_config

    path = work / "settings.yaml"
    values = {"method": method, **settings_dict(method_class(method).Settings())}
    path.write_bytes(json_bytes(mutated_json(values, number)))
    with refused():
        named, found, source = read_method_config(str(path), {})
        make_method(named, found, source=source)


@fuzz
@given(number=numbers, resealed=st.booleans())
def test_split_files(work: Path, data: Path, number: int, resealed: bool) -> None:
    from toolkit.data.protocols import make_plan
    from toolkit.data.splits import _checksum

    dataset, path = load_dataset(data), work / "a.split.json"
    make_plan(dataset, protocol="supervised", folds=3).write(path)
    record = json.loads(path.read_bytes())
    if resealed:  # as one who wants it to be read would do
        record = mutated_json(record, number)
        if isinstance(record, dict):
            record.pop("checksum", None)
            with contextlib.suppress(Exception):
                plan = SplitPlan.read(path)
                record["hash"] = replace(plan, folds=record["folds"]).hash
            with contextlib.suppress(TypeError, ValueError):
                record["checksum"] = _checksum(record)
        path.write_bytes(json_bytes(record))
    else:
        path.write_bytes(mutated(path.read_bytes(), number))
    with refused():
        SplitPlan.read(path).fold(dataset, 0)


RUN_FILES = (
    "run.json",
    "metrics.json",
    "report.json",
    "predictions/test.jsonl",
    "predictions/val.jsonl",
)


@pytest.fixture(scope="module")
def whole_run(work: Path, tiny_runs: TinyRuns, sample_dir: Path) -> Path:
    """A run that tests may change; its files are put back before each case."""
    shutil.copytree(tiny_runs("padim").path, work / "runs/padim/one")
    return work / "runs/padim/one"


@fuzz
@given(number=numbers, name=st.sampled_from(RUN_FILES), structured=st.booleans())
def test_files_of_runs(
    whole_run: Path,
    tiny_runs: TinyRuns,
    sample_dir: Path,
    number: int,
    name: str,
    structured: bool,
) -> None:
    from toolkit.leaderboards.board import FORMATS, leaderboard
    from toolkit.leaderboards.compare import compare_runs
    from toolkit.reporting.collect import collect_report
    from toolkit.runs.evaluate import evaluate, read_report
    from toolkit.verification.verify import verify

    source = tiny_runs("padim").path
    for one in RUN_FILES:
        shutil.copyfile(source / one, whole_run / one)
    content = (source / name).read_bytes()
    if not structured:
        content = mutated(content, number)
    elif name.endswith(".jsonl"):
        lines = content.splitlines()
        at = number % len(lines)
        lines[at] = json_bytes(mutated_json(json.loads(lines[at]), number))
        content = b"\n".join(lines)
    else:
        content = json_bytes(mutated_json(json.loads(content), number))
    (whole_run / name).write_bytes(content)
    with refused():
        board = leaderboard([whole_run])
        for form in FORMATS:
            with refused():
                board.render(form)
    with refused():
        run = Run.open(whole_run)
        read_report(run)
        evaluate(run)
    with refused():
        compare_runs((Run.open(whole_run), Run.open(source)), load_dataset(sample_dir))
    with refused():
        collect_report([whole_run])
    with refused():
        verify([whole_run])


@fuzz
@given(number=numbers, structured=st.booleans())
def test_cards_and_exports(
    work: Path, card: Path, number: int, structured: bool, model: Any
) -> None:
    from toolkit.decisions.card import CalibrationCard
    from toolkit.verification.checksums import sealed

    content = mutated(card.read_bytes(), number)
    if structured:
        record = mutated_json(json.loads(card.read_bytes()), number)
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            record = sealed(record)
        content = json_bytes(record)
    (work / "card.json").write_bytes(content)
    with refused():
        found = CalibrationCard.read(work / "card.json")
        found.outcome(1.0)
        found.p_value(1.0)
        found.write(work / "again.json")


def converted(folder: Path, data: Path, to: str) -> Path:
    """Return a converted set, made once."""
    from toolkit.formats.convert import convert

    out = folder / f"whole-{to}"
    if not out.exists():
        convert(data, to=to, out=out, images="copy")
    return out


@fuzz
@given(
    number=numbers,
    to=st.sampled_from(["coco", "yolo", "yolo-seg", "sam"]),
    structured=st.booleans(),
)
def test_readers_of_converted_sets(
    work: Path, data: Path, number: int, to: str, structured: bool
) -> None:
    from toolkit.formats.readers import open_converted
    from toolkit.formats.report import Report

    whole = converted(work, data, to)
    changed = work / f"changed-{to}"
    if not changed.exists():
        shutil.copytree(whole, changed)
    files = sorted(p for p in whole.rglob("*") if p.suffix in (".json", ".jsonl", ".txt", ".yaml"))
    file = files[number % len(files)]
    content = file.read_bytes()
    if structured and file.suffix == ".json":
        content = json_bytes(mutated_json(json.loads(content), number))
    else:
        content = mutated(content, number)
    (changed / file.relative_to(whole)).write_bytes(content)
    try:
        with refused():
            for image in open_converted(changed):
                for shape in image.shapes[:3]:
                    shape.mask(image.size_wh)
        with refused():
            for sample in list(load_dataset(changed))[:6]:
                read_regions(sample)
        with refused():
            Report.read(changed)
    finally:
        shutil.copyfile(file, changed / file.relative_to(whole))


def archives() -> dict[str, bytes]:
    """Return small archives of every kind."""
    found = {}
    for name, mode in (("a.tar", "w:"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz")):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
            for number in range(3):
                info = tarfile.TarInfo(f"bottle/train/good/{number}.png")
                info.size = 40
                tar.addfile(info, io.BytesIO(bytes([number]) * 40))
        found[name] = data.getvalue()
    for name, method in (("a.zip", zipfile.ZIP_DEFLATED), ("b.zip", zipfile.ZIP_LZMA)):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", method) as opened:
            for number in range(3):
                opened.writestr(f"bottle/train/good/{number}.png", bytes([number]) * 40)
        found[name] = data.getvalue()
    return found


ARCHIVES = archives()


@fuzz
@given(number=numbers, name=st.sampled_from(sorted(ARCHIVES)))
def test_archives(work: Path, number: int, name: str) -> None:
    path, into = work / name, work / "into"
    path.write_bytes(mutated(ARCHIVES[name], number))
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    before = sorted(p.name for p in work.iterdir())
    with refused():
        unpack(path, into, folder="bottle")
    assert sorted(p.name for p in work.iterdir()) == before


@fuzz
@given(number=numbers, structured=st.booleans())
def test_heads_of_safetensors(work: Path, number: int, structured: bool) -> None:
    import torch
    from safetensors.torch import save

    from toolkit.methods.classifier.checkpoint import read_best
    from toolkit.methods.sam.model import _read_safetensors
    from toolkit.weights.checkpoint import load_state_dict

    whole = save({"a": torch.zeros(2, 3), "b": torch.ones(4)}, {"sha256": "x", "model": "{}"})
    if structured:
        size = int.from_bytes(whole[:8], "little")
        head = json_bytes(mutated_json(json.loads(whole[8 : 8 + size]), number))
        whole = len(head).to_bytes(8, "little") + head + whole[8 + size :]
    else:
        whole = mutated(whole, number)
    path = work / "a.safetensors"
    path.write_bytes(whole)
    for read in (load_state_dict, read_best, _read_safetensors):
        with refused():
            read(path)


@fuzz
@given(number=numbers, name=st.sampled_from(["a.pt", "bare.pt"]))
def test_checkpoints(work: Path, number: int, name: str) -> None:
    import torch

    from toolkit.methods.classifier.checkpoint import read_last
    from toolkit.weights.checkpoint import load_state_dict

    data = io.BytesIO()
    torch.save(
        {"a": torch.zeros(2, 3), "epoch": 3}, data, _use_new_zipfile_serialization=name == "a.pt"
    )
    path = work / name
    path.write_bytes(mutated(data.getvalue(), number))
    for read in (load_state_dict, read_last):
        with refused():
            read(path)


@pytest.fixture(scope="module")
def export(work: Path, tiny_runs: TinyRuns, sample_dir: Path) -> Path:
    from toolkit.inference.export import export_run
    from toolkit.methods.registry import load_method

    run = tiny_runs("padim")
    out = work / "export"
    export_run(run, load_method(run), load_dataset(sample_dir), out, say=lambda line: None)
    return out


@fuzz
@given(number=numbers, name=st.sampled_from(["manifest.json", "model.onnx"]))
def test_exports_of_strangers(work: Path, export: Path, number: int, name: str) -> None:
    """The checksums are right, as in an export that somebody made to harm."""
    from toolkit.data.types import file_sha256
    from toolkit.inference.model import load_model
    from toolkit.runtime.exported import Exported, ModelError
    from toolkit.verification.checksums import sealed

    changed = work / "changed-export"
    if not changed.exists():
        shutil.copytree(export, changed)
    record = json.loads((export / "manifest.json").read_bytes())
    if name == "model.onnx":
        (changed / name).write_bytes(mutated((export / name).read_bytes(), number))
        record["sha256"][name] = file_sha256(changed / name)
    else:
        shutil.copyfile(export / "model.onnx", changed / "model.onnx")
        record = mutated_json(record, number)
    if isinstance(record, dict):
        with contextlib.suppress(TypeError, ValueError):
            record = sealed(record)
    (changed / "manifest.json").write_bytes(json_bytes(record))
    with refused(ModelError):
        found = Exported.open(changed)
        answer = found.predict(np.zeros((48, 48, 3), np.uint8))
        found.decision(answer.score)
    with refused():
        load_model(changed).predict(np.zeros((48, 48, 3), np.uint8))[0].summary()


BODY = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n%s\r\n--b--\r\n" % png(100)
)
HEAD = {
    "host": "127.0.0.1", "content-type": "multipart/form-data; boundary=b", "content-length": "",
    "accept": "*/*", "origin": "http://127.0.0.1",
}  # fmt: skip
PATHS = ("/predict", "/predict?include=map,mask", "/feedback?id=%s&truth=ok" % ("0" * 32),
         "/models?run=x", "/health", "/", "/live/x.jpg", "/metrics", "/stats")  # fmt: skip


async def ask(app: Any, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    """Send one request to an ASGI application; return its status and body."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    status = next(m["status"] for m in sent if m["type"] == "http.response.start")
    return status, b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")


def test_http(make_station: Callable[..., Station]) -> None:
    from toolkit.service.app import ServiceOptions, make_app

    station = make_station(max_waiting=8, max_pixels=1_000_000)
    app = make_app(station, ServiceOptions(max_bytes=200_000), closing=False)
    loop = asyncio.new_event_loop()

    @fuzz
    @given(
        number=numbers,
        path=st.sampled_from(PATHS),
        what=st.sampled_from(["body", "raw", "head", "path"]),
    )
    def one(number: int, path: str, what: str) -> None:
        body, head = BODY, dict(HEAD)
        if what == "raw":
            head["content-type"], body = "image/png", mutated(PICTURES["rgb.png"], number)
        elif what == "body":
            body = mutated(BODY, number)
        elif what == "head":
            found = mutated_json(head, number)
            head = found if isinstance(found, dict) else head
        address = mutated(path.encode(), number)[:2000] if what == "path" else path.encode()
        where, _, query = address.partition(b"?")
        head = {**head, "content-length": head.get("content-length") or str(len(body))}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": "POST" if number % 3 else "GET", "scheme": "http",
            "path": where.decode("utf-8", "replace"), "raw_path": where, "query_string": query,
            "headers": [
                (str(k).lower().encode("latin-1", "replace"), str(v).encode("latin-1", "replace"))
                for k, v in head.items()
            ],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "",
        }  # fmt: skip
        with refused():
            status, answer = loop.run_until_complete(ask(app, scope, body))
            assert status < 500, (status, answer[:200])
            if status >= 400:
                assert json.loads(answer)["decision"] == "NOK"

    one()
    loop.close()


LINES = """\
dataset info DATA
dataset check DATA
dataset split DATA --protocol balanced --out OUT/s.json
convert --to yolo --data DATA --out OUT/yolo --images copy --image-size 32 --min-area 4
convert --to coco --data DATA --out OUT/coco --backgrounds 0.5 --preview 2 --overwrite
leaderboard RUNS --sort auroc --format json --columns auroc,image.ap
evaluate RUNS/padim/one
compare RUNS/padim/one RUNS/padim/one
verify RUNS
manifest DATA --out OUT/list --format jsonl
merge RUNS --out OUT/merged
weights list
cache list
cache clear features --yes
train padim --data DATA --protocol none --image-size 64
doctor --json
benchmark GRID --data NOWHERE
calibrate RUNS/none --good DATA
export RUNS/none --to onnx --out OUT/e
predict RUNS/none DATA --out OUT/p
report RUNS/none --out OUT/report.html
""".splitlines()


@fuzz
@given(number=numbers, line=st.sampled_from(LINES))
def test_command_lines(work: Path, data: Path, whole_run: Path, number: int, line: str) -> None:
    from toolkit.cli.main import main

    (work / "grid.yaml").write_text(YAML)
    names = {"DATA": data, "OUT": work / "out", "RUNS": work / "runs", "GRID": work / "grid.yaml"}
    words = line.split()
    for name, place in names.items():
        words = [word.replace(name, str(place)) for word in words]
    words = mutated_words(words, number)
    inside = work / "inside"
    shutil.rmtree(work / "out", ignore_errors=True)
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, refused():
        patch.chdir(inside)
        patch.setattr(sys, "argv", ["toolkit", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            ended = _status(main)
    assert ended in (0, 1, 2), words
    assert "Traceback" not in error.getvalue(), words


def _status(command: Callable[[], object]) -> object:
    try:
        command()
    except SystemExit as ended:
        return ended.code
    return 0


@fuzz
@given(number=numbers, damaged=st.booleans())
def test_ledgers(work: Path, number: int, damaged: bool) -> None:
    from toolkit.decisions.outcomes import Outcome
    from toolkit.line.answers import Answer
    from toolkit.line.ledger import Ledger

    whole = work / "whole.sqlite"
    if not whole.exists():
        ledger = Ledger(whole)
        for one in range(5):
            ledger.add(Answer(Outcome.OK, 1.5, 4.0, 0.3, "", "m"), image=f"{one}.png", sha256="1",
                       sinks=["one"])  # fmt: skip
        ledger.add_feedback(who="me", sha256="1", image="0.png", truth="nok", decision="OK",
                            model="m")  # fmt: skip
        ledger.close()
    path = work / "a.sqlite"
    for old in work.glob("a.sqlite*"):
        old.unlink()
    content = whole.read_bytes()
    path.write_bytes(mutated(content, number) if damaged else content)
    fields: Any = {
        "image": "a.png", "sha256": "0", "reason": "x", "model": "m", "score": 1.0,
        "threshold": 2.0, "p_value": 0.5, "stamp": "s", "destination": "ok/a.png",
    }  # fmt: skip
    if not damaged:
        fields = mutated_json(fields, number)
        if not isinstance(fields, dict):
            return
    names = ("image", "sha256", "reason", "model", "stamp", "destination")
    text = {key: str(fields.get(key, "")) for key in names}
    found = (fields.get(key) for key in ("score", "threshold", "p_value"))
    values = [value if isinstance(value, float) else None for value in found]
    with refused():
        ledger = Ledger(path)
        try:
            answer = Answer(Outcome.NOK, *values, text["reason"], text["model"])
            ledger.add(answer, image=text["image"], sha256=text["sha256"], sinks=["one"],
                       stamp=text["stamp"], destination=text["destination"])  # fmt: skip
            for call in (ledger.count, ledger.answers, ledger.stats, ledger.feedback,
                         ledger.overruled, ledger.unmoved, ledger.differences):  # fmt: skip
                with refused():
                    call()
            with refused():
                ledger.pending("one")
            with refused():
                ledger.scores(text["model"])
        finally:
            ledger.close()
