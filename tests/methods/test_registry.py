"""Methods by name: those that ship, and those that others add."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import pytest

from toolkit.benchmarking.grid import read_benchmark
from toolkit.config import settings_dict
from toolkit.errors import ConfigError
from toolkit.home import resource
from toolkit.methods import registry
from toolkit.methods.base import Labels, Method
from toolkit.methods.registry import load_method, make_method, method_class, method_names
from toolkit.runs.run import Run
from toolkit.training import read_method_config

NAMES = sorted(registry._BUILT_IN)


def test_names_are_sorted() -> None:
    assert set(method_names()) >= {"patchcore", "classifier", "sam", "yolo", "yolo-world"}
    assert method_names() == sorted(method_names())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_the_leaderboard_needs(name: str) -> None:
    cls = method_class(name)
    assert issubclass(cls, Method)
    assert cls.name == name
    assert cls.labels in get_args(Labels)
    assert cls.score_description.strip()
    assert dataclasses.is_dataclass(cls.Settings)
    assert not cls.__abstractmethods__
    for field in dataclasses.fields(cls.Settings):
        assert field.metadata.get("help"), f"{name}: {field.name} has no help"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls.Settings(), dataclasses.fields(cls.Settings)[0].name, None)


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_the_run_file(name: str, tmp_path: Path) -> None:
    method = make_method(name, {}, source="test")
    run = Run.create(
        tmp_path, method=name, settings=settings_dict(method.settings), split={}, data={}
    )
    again = load_method(Run.open(run.path))
    assert type(again) is type(method)
    assert again.settings == method.settings


def shipped() -> list[str]:
    folder = resource("configs")
    files = [f for f in folder.rglob("*.yaml") if f.parent.name not in ("benchmark", "leaderboard")]
    return sorted(f.relative_to(folder).with_suffix("").as_posix() for f in files)


@pytest.mark.parametrize("config", shipped())
def test_every_shipped_config_fits_its_method(config: str) -> None:
    method, settings, source = read_method_config(config, {})
    assert config.split("/")[0] in (method, "resnet")
    make_method(method, settings, source=source)


@pytest.mark.parametrize("config", sorted(resource("configs/benchmark").glob("*.yaml")), ids=str)
def test_every_shipped_benchmark_fits_its_methods(config: Path) -> None:
    entries = read_benchmark(str(config)).entries
    made = [make_method(e.method, e.settings, source=e.source) for e in entries]
    assert [method.name for method in made] == [entry.method for entry in entries]
    assert made


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("clasifier", "did you mean 'classifier'"), ("zzz", "known: classifier, devnet, ")],
)
def test_unknown(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        method_class(wrong)


def test_unknown_setting_names_the_file() -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml: unknown key 'epoch'; did you mean 'epochs'"):
        make_method("yolo", {"epoch": 1}, source="my.yaml")


def test_others_add_theirs_but_do_not_replace_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(*, group: str) -> list[EntryPoint]:
        assert group == "toolkit.methods"
        target = "tests.leaderboards.standin:Grey"
        return [EntryPoint(name, target, group) for name in ("grey", "patchcore")]

    monkeypatch.setattr(registry, "entry_points", points)
    assert "grey" in method_names()
    found: type[Method[Any]] = method_class("grey")
    assert found.score_description == "distance of mean grey"
    assert method_class("patchcore").name == "patchcore"
