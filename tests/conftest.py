"""Fixtures for all tests: the real bottle where it is present, and a small synthetic sample."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.tiny import TinyRuns, shared_folder

# On a busy machine a single example may take long without being wrong. The same examples each time:
# who looks for new ones sets TOOLKIT_RANDOM_EXAMPLES.
settings.register_profile(
    "toolkit", deadline=None, derandomize="TOOLKIT_RANDOM_EXAMPLES" not in os.environ
)
settings.load_profile("toolkit")

# Making the engine files of every small run would take longer than all else; tests that are about
# engines name them.
os.environ["TOOLKIT_ENGINE"] = "torch"

ROOT = Path(__file__).resolve().parent.parent


def _bottle() -> Path | None:
    named = os.environ.get("TOOLKIT_BOTTLE")
    places = [Path(named)] if named else []
    places += [ROOT.parent / "shared/data/mvtec/bottle", ROOT / "datasets/bottle"]
    return next((p for p in places if (p / "train/good").is_dir()), None)


@pytest.fixture(scope="session")
def bottle_dir() -> Path:
    """The real MVTec AD category `bottle`."""
    found = _bottle()
    if found is None:
        pytest.skip("real MVTec bottle not found; set TOOLKIT_BOTTLE to its folder")
    return found


@pytest.fixture(scope="session")
def sample_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic sample, made once per test session; tests may only read it."""
    from toolkit.data.synthetic import make_sample

    folder = shared_folder(tmp_path_factory) / "shared-data"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):  # returns what another worker made
        return make_sample(
            folder / "sample", seed=1, size=128, train_good=12, test_good=6, per_defect=6
        )


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory, sample_dir: Path) -> TinyRuns:
    """Small runs of every method on the sample, trained once per test session."""
    return TinyRuns(shared_folder(tmp_path_factory) / "shared-runs", sample_dir)


@pytest.fixture(autouse=True)
def _private_home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's downloads; those that need weights ask for `real_home`."""
    if "real_home" not in request.fixturenames:
        folder = request.getfixturevalue("tmp_path_factory").mktemp("home")
        monkeypatch.setenv("TOOLKIT_HOME", str(folder))


@pytest.fixture
def real_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout as home, with whatever weights were fetched there."""
    monkeypatch.setenv("TOOLKIT_HOME", str(ROOT))
    return ROOT
