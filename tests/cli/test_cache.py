"""`toolkit cache`: sizes by kind, and nothing deleted by accident."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolkit.cli.cache import cache_app
from toolkit.errors import ConfigError
from toolkit.home import cache_dir


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    folder = cache_dir()
    (folder / "embeddings" / "model").mkdir(parents=True)
    (folder / "embeddings" / "model" / "a.npy").write_bytes(b"x" * 2_000_000)
    (folder / "resized").mkdir()
    (folder / "resized" / "b.npy").write_bytes(b"x" * 500_000)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sam.pt").write_bytes(b"kept")
    return folder


def _run(*words: str, stdin: str | None = None, status: int = 0) -> str:
    result = CliRunner().invoke(cache_app, list(words), input=stdin)
    assert result.exit_code == status, result.output
    return result.output


def test_list_shows_sizes_per_kind_and_in_all(cache: Path) -> None:
    text = _run("list")
    rows = {line.split()[1]: line for line in text.splitlines() if " MB" in line}
    assert "2.0 MB" in rows["embeddings"]
    assert "0.5 MB" in rows["resized"]
    assert "2.5 MB" in rows["all"]


def test_an_empty_cache_is_reported_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "none"))
    assert "nothing cached yet" in _run("list")
    _run("clear", "--yes")
    assert not (tmp_path / "none").exists()


def test_clear_takes_only_the_kind_named(cache: Path) -> None:
    assert "deleted 2.0 MB (embeddings)" in _run("clear", "embeddings", "--yes")
    assert [p.name for p in cache.iterdir()] == ["resized"]


def test_clear_without_names_takes_all_of_the_cache_and_nothing_else(cache: Path) -> None:
    _run("clear", "--yes")
    assert not any(cache.iterdir())
    assert (cache.parent / "weights" / "sam.pt").read_bytes() == b"kept"


@pytest.mark.parametrize(("answer", "left"), [("n\n", 2), ("y\n", 0)])
def test_on_a_terminal_it_asks(
    cache: Path, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    monkeypatch.setattr("toolkit.cli.cache._is_interactive", lambda: True)
    text = _run("clear", stdin=answer, status=0 if left == 0 else 1)
    assert "Delete 2.5 MB (embeddings, resized)?" in text
    assert len(list(cache.iterdir())) == left


def test_elsewhere_it_needs_yes(cache: Path) -> None:
    result = CliRunner().invoke(cache_app, ["clear"])
    assert isinstance(result.exception, ConfigError)
    assert "would delete 2.5 MB" in str(result.exception)
    assert len(list(cache.iterdir())) == 2


def test_an_unknown_kind_names_the_right_one(cache: Path) -> None:
    result = CliRunner().invoke(cache_app, ["clear", "embedings", "--yes"])
    assert isinstance(result.exception, ConfigError)
    assert "embeddings" in str(result.exception)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("name", ["..", "../weights", "embeddings/model"])
def test_nothing_outside_and_nothing_deeper_can_be_named(cache: Path, name: str) -> None:
    result = CliRunner().invoke(cache_app, ["clear", name, "--yes"])
    assert isinstance(result.exception, ConfigError)
    assert (cache.parent / "weights" / "sam.pt").exists()


def test_unknown_folders_are_listed_too(cache: Path) -> None:
    (cache / "of a later version").mkdir()
    (cache / "of a later version" / "a.npy").write_bytes(b"x" * 100_000)
    assert "0.1 MB" in next(x for x in _run("list").splitlines() if "later version" in x)


def test_of_a_link_only_the_link_goes(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"x")
    (cache / "linked").symlink_to(elsewhere)
    _run("clear", "linked", "--yes")
    assert not (cache / "linked").exists()
    assert (elsewhere / "precious").exists()
