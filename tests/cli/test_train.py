"""`toolkit train` and `toolkit finetune`: every setting is an option and reaches the run."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from tests.leaderboard.standin import grey  # noqa: F401
from toolkit.benchmark.grid import read_method_config
from toolkit.cli import main as cli
from toolkit.cli.main import app
from toolkit.cli.train import _method_command, _train
from toolkit.config import build_settings
from toolkit.data.synthetic import make_sample
from toolkit.methods.registry import _BUILT_IN, method_class

METHODS = sorted(_BUILT_IN)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grey.yaml").write_text("method: grey\noffset: 1.5\n")


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_is_an_option_with_help(method: str) -> None:
    name = "finetune" if method in ("sam", "yolo", "yolo-world") else "train"
    group = typer.main.get_group(app).get_command(None, name)  # type: ignore[arg-type]
    command = group.get_command(None, method)  # type: ignore[attr-defined]
    options = {name: p for p in command.params for name in p.opts}
    _, values, source = read_method_config(f"{method}/default", {})
    holds = build_settings(method_class(method).Settings, values, source=source)
    for field in dataclasses.fields(method_class(method).Settings):
        option = options["--" + field.name.replace("_", "-")]
        assert field.metadata["help"], field.name
        shown = getattr(holds, field.name)
        shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
        assert option.help == f"{field.metadata['help']} (default: {shown})"


@pytest.mark.parametrize("method", METHODS)
def test_help_shows_every_setting(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("TERMINAL_WIDTH", "250")
    group = "finetune" if method in ("sam", "yolo", "yolo-world") else "train"
    status, text = run(group, method, "--help")
    assert status == 0
    for field in dataclasses.fields(method_class(method).Settings):
        assert f"--{field.name.replace('_', '-')} " in text, field.name
        # Words in brackets are not to be taken for markup.
        assert " ".join(field.metadata["help"].split()) in " ".join(text.split()), field.name


@pytest.mark.parametrize("method", METHODS)
def test_no_setting_has_the_name_of_a_common_option(method: str) -> None:
    common = set(inspect.signature(_train).parameters) - {"method", "changes"}
    settings = {field.name for field in dataclasses.fields(method_class(method).Settings)}
    assert not common & settings
    assert set(inspect.signature(_method_command(method)).parameters) >= settings | {"data", "seed"}


@pytest.mark.usefixtures("grey")
def test_a_run_from_the_command_line(sample_dir: Path) -> None:
    words = ("train", "grey", "--config", "grey.yaml", "--data", sample_dir, "--device", "cpu")
    status, text = run(*words, "--fold", 1, "--seed", 5, "--name", "mine", "--gives", "boxes,mask")
    assert status == 0
    record = json.loads(Path("runs/grey/mine/run.json").read_text())
    assert record["settings"] == {"gives": ["boxes", "mask"], "fail": "", "offset": 1.5}
    assert (record["seed"], record["split"]["fold"]) == (5, 1)
    assert Path("runs/grey/mine/metrics.json").is_file()
    assert "mine" in text
    assert "AUROC" in text


@pytest.mark.usefixtures("grey")
@pytest.mark.parametrize(
    ("words", "offset"),
    [
        ((), 1.5),  # the file's
        (("--offset", "2"), 2.0),
        (("--set", "offset=3"), 3.0),
        (("--offset", "2", "--set", "offset=3"), 3.0),  # the more particular words come last
    ],
)
def test_options_win_over_the_file(sample_dir: Path, words: tuple[str, ...], offset: float) -> None:
    status, _ = run("train", "grey", "--config", "grey.yaml", "--data", sample_dir, *words)
    assert status == 0
    record = json.loads(Path("runs/grey/001/run.json").read_text())
    assert record["settings"]["offset"] == offset


@pytest.mark.usefixtures("grey")
def test_numbered_named_and_resumed(sample_dir: Path, grey: Any) -> None:  # noqa: F811
    words = ("train", "grey", "--config", "grey.yaml", "--data", sample_dir)
    for _ in range(2):
        assert run(*words)[0] == 0
    assert sorted(f.name for f in Path("runs/grey").iterdir()) == ["001", "002"]
    assert run(*words, "--name", "one")[0] == 0
    assert run(*words, "--name", "one", "--resume")[0] == 0
    assert grey.fits == ["001", "002", "one"]


@pytest.mark.usefixtures("grey")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--name", "one"), "a run of this name exists"),
        (("--name", "one", "--resume", "--offset", "9"), "another offset"),
        (("--name", "one", "--resume", "--seed", "9"), "another split or seed"),
    ],
)
def test_a_finished_run_is_never_overwritten(
    sample_dir: Path, words: tuple[str, ...], said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    common = ("train", "grey", "--config", "grey.yaml", "--data", sample_dir)
    assert run(*common, "--name", "one")[0] == 0
    before = {f: f.stat().st_mtime_ns for f in Path("runs").rglob("*")}
    monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, (*common, *words))])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert {f: f.stat().st_mtime_ns for f in Path("runs").rglob("*")} == before


@pytest.mark.usefixtures("grey")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "resnet/default"), "is a config of resnet, not of grey"),
        (("--config", "grey.yaml", "--set", "ofset=1"), "options"),  # not the file is to blame
        (("--config", "grey.yaml", "--runs", "grey.yaml"), "cannot be written"),
    ],
)
def test_what_is_wrong_is_named(
    sample_dir: Path, words: tuple[str, ...], said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        sys, "argv", ["toolkit", "train", "grey", "--data", str(sample_dir), *words]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert [f.name for f in Path().iterdir()] == ["grey.yaml"]


def test_a_bank_is_gone_on_with_when_good_images_come_in() -> None:
    # Three of thirty validate and two of twenty-four, so that one more is wanted afterwards.
    data = make_sample(
        Path("data"), seed=1, size=64, train_good=30, test_good=2, per_defect=2
    )  # fmt: skip
    kept_back = sorted((data / "train/good").glob("*.png"))[::5]
    for image in kept_back:
        image.rename(image.name)
    words = (
        "train", "patchcore", "--data", data, "--protocol", "official", "--weights", "none",
        "--backbone", "resnet18", "--image-size", 64,
    )  # fmt: skip
    assert run(*words, "--name", "first")[0] == 0
    for image in kept_back:
        Path(image.name).rename(image)
    code, said = run(*words, "--name", "more", "--extend", "runs/patchcore/first")
    assert (code, "held out" in said) == (0, False), said
    learnt, before = (
        set(json.loads(Path(f"runs/patchcore/{name}/weights/images.json").read_text()))
        for name in ("more", "first")
    )
    assert before < learnt
