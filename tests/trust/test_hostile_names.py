"""Names with tags, line breaks, terminal commands, dashes, of 255 bytes: outputs stay themselves.

One data set with such classes and files, and runs of such names, through the commands. What the
page does in a browser is tested in tests/reporting.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.cli.command import run as command
from toolkit.data.layouts import load_dataset
from toolkit.data.synthetic import make_sample
from toolkit.formats.convert import WRITERS
from toolkit.formats.readers import open_converted
from toolkit.verification.verify import verify

NAMES = (
    "<img src=x onerror=alert(1)>",
    "a\nb\r\x07",
    "\x1b[31mred\x1b]0;title\x07",
    "--help",
    "\u202egnp.exe\u2066",
    "=1+1|cmd",
    "$(touch hit);`touch hit`'\"&",
    "{{7*7}}: [x, *y] # no comment",
    "é" * 100,
)
# Characters that a terminal, or a reader of a text file, must never meet in one of these.
FORBIDDEN = set("\x1b\x07\r\x00\u202e\u2066")
FEATURES = ["--weights", "none", "--image-size", "64", "--n-features", "8"]


def raw(text: str) -> set[str]:
    """Return what a text holds that could harm."""
    return FORBIDDEN & set(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose classes and files have these names."""
    folder = tmp_path_factory.mktemp("names") / NAMES[0]
    make_sample(folder, seed=3, size=64, train_good=6, test_good=6, per_defect=5)
    kinds = sorted(p.name for p in (folder / "ground_truth").iterdir())
    # As many classes as there are names, each with some images.
    for number, name in enumerate(NAMES[1:]):
        source = kinds[number % len(kinds)]
        for part, suffix in (("test", ""), ("ground_truth", "_mask")):
            target = folder / part / name
            target.mkdir()
            for image in sorted((folder / part / source).iterdir()):
                stem = f"{image.stem.removesuffix('_mask')}{NAMES[(number + 2) % 7]}"
                stem = stem.replace("/", "")
                shutil.copyfile(image, target / f"{stem}{suffix}{image.suffix}")
                with (target / f"{stem}{suffix}{image.suffix}").open("ab") as file:
                    file.write(b"" if suffix else str(number).encode())  # no duplicates
    for source in kinds:
        for part in ("test", "ground_truth"):
            shutil.rmtree(folder / part / source)
    long = sorted((folder / "test/good").iterdir())[0]
    long.rename(long.with_name("x" * (255 - len(long.suffix)) + long.suffix))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(autouse=True)
def _inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(work)
    yield
    assert not (work / "hit").exists()


def said(*words: object, status: tuple[int, ...] = (0,)) -> str:
    """Run a command, check what it prints, and return it."""
    result = command(*words)
    assert result.exit_code in status, result.output[-2000:]
    assert not raw(result.output), (words, raw(result.output))
    return str(result.stdout)


def check_files(folder: Path) -> None:
    """Check every text file below a folder."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".txt", ".csv", ".md",
                                              ".html", ".tex"):  # fmt: skip
            with path.open(newline="", encoding="utf-8") as file:
                text = file.read()
            # JSON and YAML hold a name as it is, but for what a terminal would obey.
            marks = {"\u202e", "\u2066"} if path.suffix[:3] in (".js", ".ya") else set()
            assert not raw(text) - marks, (path, raw(text))
            if path.suffix in (".html", ".md"):
                assert "<img src=x" not in text, path


def test_the_data_set(data: Path) -> None:
    assert {s.label for s in load_dataset(data)} == {"good", *NAMES[1:]}
    said("dataset", "info", data)
    said("dataset", "check", data, status=(0, 1))
    said("dataset", "split", data, "--out", "a.split.json")
    check_files(Path())


@pytest.mark.parametrize("images", ["link", "copy"])
@pytest.mark.parametrize("to", WRITERS)
def test_convert(to: str, images: str, data: Path) -> None:
    out = Path(f"{to}-{images}")
    said("convert", "--to", to, "--data", data, "--out", out, "--images", images)
    check_files(out)
    assert not verify([out]).damaged
    found = open_converted(out)
    read = list(found)
    assert set(NAMES[1:]) <= {*found.classes}
    wanted = [s for s in load_dataset(data) if s.is_defect or to != "sam"]
    assert len(read) == len(wanted)
    if (out / "data.yaml").is_file():
        text = (out / "data.yaml").read_text()
        assert set(yaml.safe_load(text)["names"].values()) == set(NAMES[1:])
    for path in out.rglob("*.json"):
        json.loads(path.read_text())


@pytest.fixture(scope="module")
def runs(work: Path, data: Path) -> list[str]:
    """Names of finished runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        named = [name for name in NAMES if "/" not in name]
        for name in named:
            said("train", "padim", "--data", data, *FEATURES, f"--name={name}")
            check_files(Path("runs"))
    return named


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json", "html"])
def test_leaderboard(form: str, runs: list[str], work: Path) -> None:
    text = said("leaderboard", "runs", "--format", form)
    if form in ("markdown", "html"):
        assert "<img" not in text
    if form == "csv":
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+", "\t"))]
        assert any("onerror" in cell for cell in cells)
    if form == "html":
        HTMLParser().feed(text)
    if form == "json":
        assert NAMES[0] in {row["entry"] for row in _rows(json.loads(text))}


def _rows(value: object) -> Iterator[dict[str, object]]:
    if isinstance(value, dict):
        if "entry" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _rows(one)


@pytest.mark.slow
def test_written_into_a_document(runs: list[str]) -> None:
    page = Path("page.md")
    page.write_text("<!-- leaderboard: start runs -->\n<!-- leaderboard: end runs -->\n")
    said("leaderboard", "runs", "--write", page, status=(0, 1, 2))
    check_files(Path())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_predict(form: str, runs: list[str], data: Path) -> None:
    out = Path(f"predicted-{form}")
    run = Path("runs/padim") / runs[0]
    said("predict", run, data / "test", "--out", out, "--format", form)
    check_files(out)


@pytest.mark.slow
def test_compare_merge_verify_and_evaluate(runs: list[str]) -> None:
    first, second = (f"runs/padim/{name}" for name in runs[:2])
    said("compare", first, second, status=(0, 1))
    said("merge", "runs", "--out", "merged", status=(0, 1))
    check_files(Path("merged"))
    said("evaluate", second)
    (Path(second) / "report.json").write_bytes(b"{}")
    assert "report.json: damaged" in said("verify", "runs", status=(1,))
    (Path(second) / "metrics.json").write_bytes(b"{")
    said("leaderboard", "runs", status=(1,))


@pytest.mark.slow
def test_report(runs: list[str]) -> None:
    pytest.importorskip("vl_convert")
    said("report", f"runs/padim/{runs[0]}", f"runs/padim/{runs[2]}", "--out", "report.html")
    text = Path("report.html").read_text()
    assert not raw(text)
    assert "<img src=x" not in text


def test_manifest(data: Path) -> None:
    said("manifest", data, "--out", "list", "--format", "jsonl")
    check_files(Path("list"))


def test_errors_name_a_hostile_file_safely(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / NAMES[2]
    folder.mkdir()
    for words in (
        ["dataset", "info", folder], ["verify", folder], ["predict", folder, data],
        ["leaderboard", folder], ["convert", "--to", "yolo", "--data", folder, "--out", "o"],
        ["train", "padim", "--data", folder], ["manifest", folder, "--out", "m"],
        ["report", folder], ["train", "padim", "--data", data, "--name", "../x\x1b[31m"],
        ["benchmark", folder / "a.yaml", "--data", data], ["calibrate", folder, "--good", data],
        ["export", folder, "--out", "e"], ["weights", "fetch", "\x1b[31m"],
    ):  # fmt: skip
        _check_error([str(word) for word in words])


def _check_error(words: list[str]) -> None:
    import contextlib
    import sys

    from toolkit.cli.main import main

    error = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(error):
        patch.setattr(sys, "argv", ["toolkit", *words])
        with contextlib.redirect_stdout(error), pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (1, 2), words
    assert not raw(error.getvalue()), words
