"""The program as a whole: help is light, bad input is one line, exit status 2, nothing left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.leaderboards.standin import grey, write_grid  # noqa: F401
from toolkit import __version__
from toolkit.cli import main as cli

pytestmark = pytest.mark.usefixtures("grey")
Toolkit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def toolkit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Toolkit:
    """Run the program in an empty folder; return status, standard output, standard error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def one_line(err: str) -> str:
    lines = [x for x in err.splitlines() if x.startswith("toolkit: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    said = err[err.index(lines[0]) :].splitlines()
    # Only what was found beside what would do may follow, indented.
    assert all(line.startswith(" ") or not line for line in said[1:]), err
    return lines[0]


def test_version(toolkit: Toolkit) -> None:
    assert toolkit("--version")[:2] == (0, f"toolkit {__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "grey", "--data", "nowhere"), "nowhere: no such folder"),
        (("train", "grey", "--data", "."), "not a data set of a known layout"),
        (("train", "grex"), "did you mean 'grey'"),
        (("train", "yolo"), "toolkit finetune yolo"),
        (("finetune", "yollo"), "did you mean 'yolo'"),
        (("train", "grey", "--config", "gray.yaml"), "gray.yaml: no such config"),
        (("train", "grey", "--set", "ofset=1"), "unknown key 'ofset'; did you mean 'offset'"),
        (("train", "grey", "--set", "offset"), "expected key=value"),
        (("train", "grey", "--offset", "far"), "--offset: offset=far: expected float"),
        (("train", "grey", "--fold", "9"), "fold 9: the split has folds 0 to 4"),
        (("train", "grey", "--protocol", "supervise"), "did you mean 'supervised'"),
        (("train", "grey", "--split", "split.json"), "split.json: cannot be read"),
        (("train", "grey", "--device", "tpu"), "--device tpu: not available"),
        (("train", "grey", "--name", "../x"), "not a plain name"),
        (("train", "grey", "--resume"), "needs --name"),
        (("train", "grey", "--prompt-run", "runs/x"), "not a run directory"),
        (("benchmark", "grid.yaml"), "grid.yaml: no such config"),
        (("leaderboard",), "runs: no such folder"),
        (("leaderboard", "runs/grey/x"), "runs/grey/x: no such folder"),
        (("evaluate", "runs/grey/x"), "runs/grey/x: no such folder"),
        (("predict", "runs/grey/x", "a.png"), "not a run directory"),
        (("dataset", "info", "nowhere"), "nowhere: no such folder"),
        (("convert", "--to", "yolo", "--data", "nowhere"), "nowhere: no such folder"),
    ],
)  # fmt: skip
def test_bad_words(
    toolkit: Toolkit, sample_dir: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    config = tmp_path / "grey.yaml"
    config.write_text("method: grey\n")
    if words[:2] == ("train", "grey"):
        extra = [] if "--config" in words else ["--config", config]
        words = (*words, *extra, *([] if "--data" in words else ["--data", sample_dir]))  # type: ignore[arg-type]
    status, out, err = toolkit(*words)
    assert status == 2
    assert said in one_line(err)
    assert out == ""
    assert list(Path.cwd().iterdir()) == [], "something is left"


def damaged(sample_dir: Path, folder: Path, how: str) -> tuple[Path, Path]:
    """Copy the sample and damage one file; return the copy and the file."""
    data = shutil.copytree(sample_dir, folder)
    image = data / "test/broken_large/000.png"
    mask = data / "ground_truth/broken_large/000_mask.png"
    if how == "unreadable image":
        image.write_bytes(b"no image")
        return data, image
    if how == "missing mask":
        mask.unlink()
        return data, image
    if how == "mask without image":
        image.unlink()
        return data, mask
    assert how == "size mismatch"
    assert cv2.imwrite(str(mask), np.full((9, 9), 255, np.uint8))
    return data, mask


@pytest.mark.parametrize(
    "how", ["unreadable image", "missing mask", "mask without image", "size mismatch"]
)
def test_a_benchmark_on_damaged_data_runs_nothing(
    toolkit: Toolkit, sample_dir: Path, tmp_path: Path, how: str
) -> None:
    data, file = damaged(sample_dir, tmp_path / "data", how)
    grid = write_grid(tmp_path, [{"name": "a"}], folds="all", n_folds=3)
    status, out, err = toolkit("benchmark", grid, "--data", data)
    assert status == 2
    assert out == ""
    assert str(file) in one_line(err)
    assert not Path("runs").exists(), "something is half-written"


@pytest.mark.parametrize(
    "how", ["unreadable image", "missing mask", "mask without image", "size mismatch"]
)
def test_check_names_the_file(toolkit: Toolkit, sample_dir: Path, tmp_path: Path, how: str) -> None:
    data, file = damaged(sample_dir, tmp_path / "data", how)
    status, out, err = toolkit("dataset", "check", data)
    assert status == 1
    assert file.name in out + err
    assert "Traceback" not in out + err


def test_a_traceback_with_debug(toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.errors import DataError

    monkeypatch.setattr(sys, "argv", ["toolkit", "dataset", "info", "nowhere", "--debug"])
    with pytest.raises(DataError):
        cli.main()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 8.00 TiB"), r"out of memory \(Unable to allocate 8"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (ImportError("libGL.so.1: cannot open shared object file", name="cv2"), r"cv2 .*libGL"),
    ],
)
def test_a_fault_of_the_machine_is_one_line(
    toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("toolkit.doctor.describe_installation", fail)
    status, _, err = toolkit("doctor")
    assert status == 2
    assert re.search(words, one_line(err))


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ImportError("no name x"), KeyError()])
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("toolkit.doctor.describe_installation", fail)
    monkeypatch.setattr(sys, "argv", ["toolkit", "doctor"])
    with pytest.raises(type(error)):
        cli.main()


def test_a_name_that_the_terminal_cannot_print(tmp_path: Path) -> None:
    code = """
sys.argv = ["toolkit", "dataset", "info", "sch\\u00f6n-\\udcff"]
from toolkit.cli.main import main
main()"""
    done = in_a_process(code, tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "no such folder" in one_line(done.stderr)


def test_interrupted(
    toolkit: Toolkit, sample_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.leaderboards.standin import Grey

    monkeypatch.setattr(Grey, "interrupted_in", "predict")
    grid = write_grid(tmp_path, [{"name": "a"}])
    status, _, err = toolkit("benchmark", grid, "--data", sample_dir)
    assert status == 130
    assert "Traceback" not in err
    monkeypatch.setattr(Grey, "interrupted_in", "")
    assert toolkit("benchmark", grid, "--data", sample_dir)[0] == 0


def in_a_process(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    lead = f"import sys; sys.path.insert(0, {str(root)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", lead + code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset", "info", "nowhere"], "nowhere: no such folder"),
        (["train", "classifier", "--set", "networ=x", "--data", "DATA"], "did you mean 'network'"),
    ],
)
def test_in_a_process_of_its_own(
    sample_dir: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    words = [str(sample_dir) if w == "DATA" else w for w in words]
    code = f"sys.argv = ['toolkit', *{words!r}]\nfrom toolkit.cli.main import main\nmain()"
    done = in_a_process(code, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


HEAVY = ("torch", "ultralytics", "cv2", "matplotlib", "sklearn", "timm", "torchvision", "pandas")


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], (*HEAVY, "numpy")),
        (["benchmark", "--help"], (*HEAVY, "numpy")),
        (["train", "--help"], HEAVY),  # names each method's purpose, so it reads their modules
    ],
)
def test_help_imports_nothing_heavy(
    tmp_path: Path, words: list[str], heavy: tuple[str, ...]
) -> None:
    code = f"""
sys.argv = ["toolkit", *{words!r}]
from toolkit.cli.main import main
try:
    main()
finally:
    print("HEAVY", [name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""
    done = in_a_process(code, tmp_path)
    assert done.returncode == 0
    assert "Usage: toolkit" in done.stdout
    assert done.stderr.strip() == "HEAVY []"


def test_every_command_has_help(toolkit: Toolkit) -> None:
    commands = (
        "demo", "dataset", "convert", "finetune", "train", "predict", "evaluate", "benchmark",
        "leaderboard", "weights", "doctor",
    )  # fmt: skip
    overview = toolkit("--help")[1]
    for command in commands:
        assert command in overview
        status, out, err = toolkit(command, "--help")
        assert (status, err) == (0, "")
        assert f"toolkit {command}" in out
