"""`toolkit train` and `toolkit finetune`: every setting is an option and reaches the run."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import typer.main
from typer.testing import CliRunner

from tests.leaderboards.standin import grey  # noqa: F401
from toolkit.cli import main as cli
from toolkit.cli.main import app
from toolkit.cli.train import _COMMON, _method_command, _type_name
from toolkit.config import build_settings, setting
from toolkit.data.synthetic import make_sample
from toolkit.errors import ConfigError
from toolkit.methods.registry import _BUILT_IN, method_class
from toolkit.training import read_method_config

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
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    group = "finetune" if method in ("sam", "yolo", "yolo-world") else "train"
    status, text = run(group, method, "--help")
    assert status == 0
    for field in dataclasses.fields(method_class(method).Settings):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
        # Words in brackets are not to be taken for markup.
        assert " ".join(field.metadata["help"].split()) in " ".join(text.split()), field.name


@dataclasses.dataclass(frozen=True)
class TypedSettings:
    """One setting of each type."""

    steps: int = setting(1, "Steps.", advanced=True)
    rate: float = setting(0.1, "Rate.")
    limit: int | None = setting(None, "Limit.")
    kind: Literal["box", "mask"] = setting("box", "Kind.")
    depth: Literal[18, 50] = setting(18, "Depth.")
    mixed: bool = setting(True, "Mixed.")
    layers: tuple[int, ...] = setting((2, 3), "Layers.")
    extra: dict[str, float] = setting({}, "Extra.", advanced=True)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, grey: type[Any]) -> dict[str, Any]:  # noqa: F811
    """Give the stand-in method these settings; collect what reaches the training."""
    given: dict[str, Any] = {}

    def train(method: str, data: object, **options: Any) -> None:
        given.update(options)
        raise ConfigError("stop here")

    monkeypatch.setattr(grey, "Settings", TypedSettings)
    monkeypatch.setattr("toolkit.training.train", train)
    return given


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--steps", "5"], "steps", 5),
        (["--steps", "1e3"], "steps", 1000),
        (["--rate", "1e-3"], "rate", 0.001),
        (["--limit", "7"], "limit", 7),
        (["--kind", "mask"], "kind", "mask"),
        (["--depth", "50"], "depth", 50),
        (["--mixed"], "mixed", True),
        (["--no-mixed"], "mixed", False),
        (["--layers", "1,2"], "layers", (1, 2)),
        (["--extra", "{a: 1.5}"], "extra", {"a": 1.5}),
    ],
)
def test_options_have_the_type_of_the_setting(
    typed: dict[str, Any], sample_dir: Path, words: list[str], key: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match="stop here"):
        run("train", "grey", "--data", sample_dir, *words)
    assert typed[key] == value
    assert type(typed[key]) is type(value)
    assert not {f.name for f in dataclasses.fields(TypedSettings)} & set(typed) - {key}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "many"], "--steps: steps=many: expected int"),
        (["--rate", "nan"], "--rate: rate=nan: expected float"),
        (["--kind", "masks"], "did you mean 'mask'"),
        (["--depth", "34"], "known: 18, 50"),
        (["--layers", "1,x"], "--layers: layers=x: expected int"),
        (["--extra", "[1]"], "expected a mapping"),
    ],
)
@pytest.mark.usefixtures("typed")
def test_a_wrong_type_is_one_line(sample_dir: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run("train", "grey", "--data", sample_dir, *words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("typed")
def test_help_shows_types_and_puts_advanced_settings_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERMINAL_WIDTH", "160")
    text = run("train", "grey", "--help")[1]
    for words in (
        r"--steps +<int> ", r"--rate +<float> ", r"--limit +<int\|none> ",
        r"--kind +\[box\|mask\] ", r"--depth +\[18\|50\] ", r"--mixed +--no-mixed ",
        r"--layers +<int,\.\.\.> ", r"--extra +<\{key: value\}> ",
    ):  # fmt: skip
        assert re.search(words, text), words
    settings, advanced = text.index("─ Settings ─"), text.index("─ Advanced ─")
    assert text.index("--data") < settings < text.index("--rate") < advanced < text.index("--steps")


def test_type_names() -> None:
    assert _type_name(tuple[float, int]) == "<float,int>"


@pytest.mark.parametrize("method", METHODS)
def test_no_setting_has_the_name_of_a_common_option(method: str) -> None:
    settings = {field.name for field in dataclasses.fields(method_class(method).Settings)}
    assert not {*_COMMON, "set", *method_class(method).inputs} & settings
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
    ("words", "message"),
    [
        (("--name", "one"), "a run of this name exists"),
        (("--name", "one", "--resume", "--offset", "9"), "another offset"),
        (("--name", "one", "--resume", "--seed", "9"), "another split or seed"),
    ],
)
def test_a_finished_run_is_never_overwritten(
    sample_dir: Path, words: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    common = ("train", "grey", "--config", "grey.yaml", "--data", sample_dir)
    assert run(*common, "--name", "one")[0] == 0
    before = {f: f.stat().st_mtime_ns for f in Path("runs").rglob("*")}
    monkeypatch.setattr(sys, "argv", ["toolkit", *map(str, (*common, *words))])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert {f: f.stat().st_mtime_ns for f in Path("runs").rglob("*")} == before


@pytest.mark.usefixtures("grey")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config", "resnet/default"), "is a config of classifier, not of grey"),
        (("--config", "grey.yaml", "--set", "ofset=1"), "options"),  # not the file is to blame
        (("--config", "grey.yaml", "--runs", "grey.yaml"), "cannot be written"),
    ],
)
def test_what_is_wrong_is_named(
    sample_dir: Path, words: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        sys, "argv", ["toolkit", "train", "grey", "--data", str(sample_dir), *words]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert [f.name for f in Path().iterdir()] == ["grey.yaml"]


@pytest.mark.slow
def test_a_bank_is_extended_by_new_good_images() -> None:
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
    code, text = run(*words, "--name", "more", "--base-run", "runs/patchcore/first")
    assert (code, "held out" in text) == (0, False), text
    seen, before = (
        set(json.loads(Path(f"runs/patchcore/{name}/weights/images.json").read_text()))
        for name in ("more", "first")
    )
    assert before < seen
