"""`toolkit dataset …` as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from toolkit.cli.dataset import dataset_app
from toolkit.data.layouts import load_dataset
from toolkit.data.splits import SplitPlan
from toolkit.errors import ToolkitError
from toolkit.home import datasets_dir


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, on a terminal of 80 columns."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def data(sample_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample_dir, tmp_path / "data")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(dataset_app, [str(w) for w in words])


def good(*words: str | Path) -> str:
    """Run a command that must succeed, and return its standard output."""
    result = run(*words)
    assert result.exception is None, result.output
    assert result.exit_code == 0
    return result.stdout


def refused(*words: str | Path) -> str:
    """Run a command that must be refused in one line, and return the line."""
    error = run(*words).exception
    assert isinstance(error, ToolkitError), error
    assert error.exit_status == 2
    assert "\n" not in str(error)
    return str(error)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, toolkit.cli.dataset\n"
        "heavy = {'numpy', 'cv2', 'torch', 'matplotlib', 'requests', 'PIL'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_lists_the_commands() -> None:
    text = good("--help")
    for name in ("sample", "info", "check", "split", "download"):
        assert name in text


SMALL = ("--size", "64", "--train-good", "2", "--test-good", "1", "--per-defect", "1")


def test_sample() -> None:
    assert "made" in good("sample", "--out", "made", "--seed", "3", *SMALL)
    dataset = load_dataset("made")
    assert len(dataset) == 6
    first = dataset.fingerprint
    # The same settings again are no error, others are.
    good("sample", "--out", "made", "--seed", "3", *SMALL)
    assert load_dataset("made").fingerprint == first
    assert "seed 3, not 4" in refused("sample", "--out", "made", "--seed", "4", *SMALL)
    assert "at least" in refused("sample", "--out", "other", "--size", "9")
    assert not Path("other").exists()


def test_sample_goes_home_by_default() -> None:
    good("sample", *SMALL)
    assert (datasets_dir() / "sample/train/good").is_dir()
    assert list(Path.cwd().iterdir()) == []


def test_info_fits_eighty_columns(data: Path) -> None:
    (data / "test/broken_small").rename(data / "test/manipulated_front")
    (data / "ground_truth/broken_small").rename(data / "ground_truth/manipulated_front")
    lines = good("info", data).splitlines()
    table = [line for line in lines if not line.startswith((data.name, "fingerprint"))]
    assert max(len(line) for line in table) <= 80
    assert "36 images: all 128x128 RGB" in lines
    assert "3 defect classes: broken_large, contamination, manipulated_front" in lines
    rows = {line.split()[0]: line.split() for line in table if line.strip()}
    assert rows["good"][1:5] == ["12", "6", "18", "–"]
    assert rows["manipulated_front"][1:5] == ["0", "6", "6", "6"]
    assert len(rows["manipulated_front"]) == 7
    assert rows["all"][1:] == ["12", "24", "36", "18"]


def test_info_json_is_json_alone(data: Path) -> None:
    record = json.loads(good("info", data, "--json"))
    assert record["fingerprint"] == load_dataset(data).fingerprint
    assert [c["label"] for c in record["classes"]] == ["good", *record["defect_classes"]]


def test_the_sample_is_the_default() -> None:
    good("sample", *SMALL, "--out", datasets_dir() / "elsewhere")
    shutil.copytree(datasets_dir() / "elsewhere", datasets_dir() / "sample")
    # Not the default settings, so that it is not made anew but refused: it is what was looked for.
    assert "other settings" in refused("info")


@pytest.mark.slow
def test_every_command_works_without_data() -> None:
    result = run("info")
    assert "synthetic sample" in result.stderr
    assert "82 images" in result.stdout
    assert "nothing found" in good("check")
    assert "split" in good("split", "--protocol", "balanced")


def test_check_without_findings_is_one_good_line(data: Path) -> None:
    assert good("check", data) == "data: 36 images checked, nothing found\n"


def test_check_names_all_findings_and_exits_with_one(data: Path) -> None:
    broken, lonely = data / "train/good/000.png", data / "test/broken_small/001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (data / "ground_truth/broken_small/001_mask.png").unlink()
    odd = data / "test/[red]odd[bold].txt"  # no markup, however it looks
    odd.write_text("x")
    result = run("check", data)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    for path, line in zip((broken, lonely, odd), lines, strict=False):
        assert str(path.relative_to(data)) in line
    assert [line.split()[:2] for line in lines[:3]] == [
        ["error", "unreadable"],
        ["error", "unpaired"],
        ["warning", "stray"],
    ]
    assert lines[3] == "data: 2 errors, 1 warning in 36 images"
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ((), "data-supervised.split.json", "In fold i"),
        (("--protocol", "official"), "data-official.split.json", "val"),
        (("--protocol", "balanced", "--per-class", "5"), "data-balanced.split.json", "In fold i"),
        # six folds of one image of each class
        (("--folds", "6", "--seed", "1"), "data-supervised.split.json", "fold"),
        (("--folds", "3", "--seed", "7", "--out", "a/b.json"), "a/b.json", "seed 7"),
    ],
)
def test_split(options: tuple[str, ...], name: str, words: str, data: Path) -> None:
    text = good("split", data, *options)
    plan = SplitPlan.read(Path(name))
    assert f"split {plan.hash}: {name}" in text
    assert words in text
    assert max(len(line) for line in text.splitlines()) <= 80
    plan.fold(load_dataset(data), plan.folds - 1)


def test_split_shows_what_went_where(data: Path) -> None:
    rows = [line.split() for line in good("split", data, "--folds", "3").splitlines()]
    # always in training, three folds, the sum
    assert ["good", "12", "2", "2", "2", "18"] in rows
    assert ["broken_large", "0", "2", "2", "2", "6"] in rows
    assert ["all", "12", "8", "8", "8", "36"] in rows
    assert ["0", "20", "(6)", "8", "(6)", "8", "(6)"] in rows


def test_split_overwrites_only_when_told(data: Path) -> None:
    good("split", data)
    before = Path("data-supervised.split.json").read_bytes()
    assert "--overwrite" in refused("split", data, "--seed", "1")
    assert Path("data-supervised.split.json").read_bytes() == before
    good("split", data, "--seed", "1", "--overwrite")
    assert Path("data-supervised.split.json").read_bytes() != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # a folder that is not there, and one that is no data set
        (("info", "missing"), "missing"),
        (("check", "missing"), "missing"),
        (("split", "missing"), "missing"),
        (("info", "."), "not a data set"),
        # options that make no sense
        (("split", "DATA", "--protocol", "supervized"), "did you mean 'supervised'"),
        (("split", "DATA", "--folds", "2"), "at least 3"),
        (("split", "DATA", "--folds", "7"), "--folds 6"),
        (("split", "DATA", "--protocol", "balanced", "--per-class", "0"), "per class 0"),
        # where nothing can be written
        (("split", "DATA", "--out", "/proc/nothing/a.json"), "/proc/nothing/a.json"),
        (("split", "DATA", "--out", "DATA"), "already there"),
        (("split", "DATA", "--out", "DATA", "--overwrite"), "cannot be written"),
        # data cards and licences
        (("download", "bottel", "--accept-licence"), "did you mean 'bottle'"),
        (("download", "bottle"), "--accept-licence"),
        (("download", "bottle", "--accept-licence", "--archive", "no.zip"), "no.zip"),
        (("download", "sample"), "toolkit dataset sample"),
    ],
)
def test_wrong_input_is_one_line(words: tuple[str, ...], said: str, data: Path) -> None:
    assert said in refused(*(str(data) if w == "DATA" else w for w in words))
    assert list(Path.cwd().iterdir()) == []


def test_info_of_an_unreadable_image(data: Path) -> None:
    (data / "test/good/000.png").write_bytes(b"no image")
    assert str(data / "test/good/000.png") in refused("info", data)


def test_download_from_an_archive(data: Path) -> None:
    card = datasets_dir() / "tiny.yaml"
    card.parent.mkdir(parents=True, exist_ok=True)
    shipped = Path(__file__).parents[2] / "datasets/bottle.yaml"
    lines = shipped.read_text().splitlines()
    counts = {"name": "tiny", "train_good": 12, "test_good": 6, "test_defective": 18}
    for key, value in {**counts, "fingerprint": "null"}.items():
        place = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
        lines[place] = f"{lines[place].split(key)[0]}{key}: {value}"
    card.write_text("\n".join(lines))
    with zipfile.ZipFile("tiny.zip", "w") as archive:
        for path in data.rglob("*.png"):
            archive.write(path, Path("mvtec/tiny") / path.relative_to(data))
    said = run("download", "tiny", "--archive", "tiny.zip")
    assert "CC BY-NC-SA 4.0" in said.stderr  # what is to be accepted is shown first
    assert not (datasets_dir() / "tiny").exists()
    text = good("download", "tiny", "--archive", "tiny.zip", "--accept-licence")
    assert str(datasets_dir() / "tiny") in text
    assert "nothing found" in text
    assert len(load_dataset(datasets_dir() / "tiny")) == 36
    good("download", "tiny", "--archive", "tiny.zip", "--accept-licence", "--out", "mine")
    assert load_dataset("mine").name == "mine"


def test_many_image_sizes_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from toolkit.cli.dataset_tables import print_info
    from toolkit.data.info import ImageKind, Info

    kinds = (ImageKind(40, 30, 3, 9), *(ImageKind(50 + i, 60 + i, 1, 1) for i in range(200)))
    print_info(Info("many", "many", "mvtec", (), "0" * 64, 209, (), (), kinds))
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "209 images" in text]
    assert line == (
        "209 images: 201 sizes from 40x30 to 249x259, median 145x155, most frequent 9 40x30 RGB, "
        "1 50x60 grey, 1 51x61 grey"
    )
