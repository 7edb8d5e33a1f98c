"""Where home is, and that a user's copy of a shipped file wins."""

from __future__ import annotations

from pathlib import Path

import pytest

import toolkit.home
from toolkit.errors import ConfigError
from toolkit.home import cache_dir, datasets_dir, home, resource, weights_dir


@pytest.fixture
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLKIT_HOME")


def checkout(folder: Path) -> Path:
    for name in ("configs", "weights"):
        (folder / name).mkdir(parents=True)
    return folder


def test_the_variable_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout(tmp_path / "checkout"))
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "named"))
    assert home() == tmp_path / "named"
    monkeypatch.setenv("TOOLKIT_HOME", "relative")
    assert home() == tmp_path / "checkout/relative"
    monkeypatch.setenv("TOOLKIT_HOME", "~/x")
    assert home() == (Path.home() / "x").resolve()


@pytest.mark.usefixtures("_unset")
def test_the_nearest_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = checkout(tmp_path / "outer")
    inner = checkout(outer / "a/inner")
    (inner / "b/c").mkdir(parents=True)
    for place, expected in ((outer, outer), (outer / "a", outer), (inner / "b/c", inner)):
        monkeypatch.chdir(place)
        assert home() == expected
    # One of the two folders is not enough.
    (outer / "half/configs").mkdir(parents=True)
    monkeypatch.chdir(outer / "half")
    assert home() == outer


@pytest.mark.usefixtures("_unset")
def test_elsewhere_it_is_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert home() == tmp_path / "me/.cache/toolkit"
    assert not (tmp_path / "me").exists()  # asking makes nothing


def test_folders_of_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    assert datasets_dir() == tmp_path / "datasets"
    assert weights_dir() == tmp_path / "weights"
    assert cache_dir() == tmp_path / "cache"


def test_an_own_copy_wins_over_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    name = "datasets/bottle.yaml"
    shipped = resource(name)
    assert tmp_path not in shipped.parents
    (tmp_path / "datasets").mkdir()
    (tmp_path / name).write_text("mine")
    assert resource(name) == tmp_path / name


def test_installed_files_win_over_strangers_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In site-packages, `datasets` and `configs` may be other people's packages.
    package = tmp_path / "site-packages/toolkit"
    for place in ("_resources/configs", "../configs"):
        (package / place).mkdir(parents=True)
        (package / place / "a.yaml").write_text(place)
    monkeypatch.setattr(toolkit.home, "_PACKAGE", package)
    assert resource("configs/a.yaml").read_text() == "_resources/configs"
    assert resource("configs") == package / "_resources/configs"


def test_a_file_that_was_not_shipped() -> None:
    with pytest.raises(ConfigError, match=r"configs/none\.yaml: shipped file not found"):
        resource("configs/none.yaml")
