"""Banks behind an index of faiss: nearly what an exact search finds, saved and extended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.tiny import TinyRuns
from toolkit.errors import MissingExtraError, RunError
from toolkit.inference.export import export_run
from toolkit.inference.model import load_model
from toolkit.methods.scorers import indexed_bank
from toolkit.methods.scorers.indexed_bank import IndexedBank
from toolkit.methods.scorers.memory_bank import MemoryBank
from toolkit.runs.run import Run

pytest.importorskip("faiss", reason="faiss is not installed: inspection-toolkit[faiss]")


def _patches(count: int, seed: int) -> torch.Tensor:
    """Patches that vary about some kinds, as those of images do."""
    kinds = torch.randn(200, 18, generator=torch.Generator().manual_seed(7)) * 3
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(200, (count,), generator=generator)
    return kinds[drawn] + torch.randn(count, 18, generator=generator)


@pytest.fixture(scope="module")
def banks() -> tuple[MemoryBank, IndexedBank]:
    features, owners = _patches(12_000, 0).half(), torch.arange(12_000) % 40
    matrix = torch.randn(18, 18, generator=torch.Generator().manual_seed(3)) / 4
    exact = MemoryBank(features, matrix, owners=owners)
    return exact, IndexedBank(features, matrix, owners=owners)


def test_distances_are_nearly_those_of_an_exact_search(
    banks: tuple[MemoryBank, IndexedBank],
) -> None:
    queries = _patches(3_000, 1)  # more than one chunk
    exact, found = (bank.distances(queries) for bank in banks)
    assert bool((found >= exact - 1e-2).all()), "what is proposed is in the bank"
    assert float((found <= exact + 1e-2).float().mean()) > 0.95
    assert len(banks[1]) == 12_000


def test_patches_of_an_image_itself_do_not_count(banks: tuple[MemoryBank, IndexedBank]) -> None:
    exact, bank = banks
    queries = exact.features[exact.owners == 3][:200].float()  # type: ignore[index]
    assert float(bank.distances(queries).max()) < 0.05
    expected, found = (one.distances(queries, without=3) for one in banks)
    assert float(found.min()) > 0.05
    assert float((found <= expected + 1e-2).float().mean()) > 0.95


def test_where_no_cell_around_a_query_holds_what_counts_all_are_searched(
    banks: tuple[MemoryBank, IndexedBank], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, bank = banks
    monkeypatch.setattr(indexed_bank, "_PROBES", 1)
    lone = IndexedBank(
        bank.features, bank.whitening, index=bank.state()["index"],
        owners=(torch.arange(12_000) > 2).int(),
    )  # fmt: skip
    queries = _patches(50, 5)
    expected = MemoryBank(bank.features[:3], bank.whitening).distances(queries)
    torch.testing.assert_close(lone.distances(queries, without=1), expected, rtol=1e-3, atol=1e-3)
    assert len(exact) == len(lone)


def test_a_query_that_is_not_a_number_does_not_pass_for_good(
    banks: tuple[MemoryBank, IndexedBank],
) -> None:
    queries = _patches(3, 1)
    queries[1] = torch.nan
    assert banks[1].distances(queries).isfinite().tolist() == [True, False, True]


def test_the_mean_over_several_neighbours() -> None:
    features, queries = _patches(10_500, 0), _patches(200, 1)
    exact = MemoryBank(features, num_neighbors=5).distances(queries)
    found = IndexedBank(features, num_neighbors=5).distances(queries)
    assert float(((found - exact) / exact).mean()) < 0.02


def test_an_index_is_saved_and_takes_further_patches(
    banks: tuple[MemoryBank, IndexedBank],
) -> None:
    bank, queries = banks[1], _patches(100, 2)
    state = bank.state()
    again = IndexedBank(state["features"], state["whitening"], index=state["index"])
    assert torch.equal(again.distances(queries), bank.distances(queries))
    assert len(state["index"]) < 12_000 * 18, "codes are small"
    longer = bank.with_rows(queries, torch.full((100,), 99))
    assert len(longer) == 12_100
    assert float(longer.distances(queries).max()) < 0.05
    assert float(bank.distances(queries).max()) > 0.5


@pytest.mark.slow
def test_a_run_with_an_index(
    tiny_runs: TinyRuns, tmp_path: Path, sample_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, loaded again, and refused by an export, which would need all in one network."""
    monkeypatch.setattr(indexed_bank, "LEAST", 250)
    settings = {"coreset_size": 600, "coreset_sampling_ratio": 1.0}
    runs = [tiny_runs("patchcore", **settings, index=index) for index in ("exact", "ivf-pq")]
    images = sorted((sample_dir / "test").rglob("*.png"))[:6]
    exact, found = (load_model(run.path).predict(images) for run in runs)
    for one, other in zip(exact, found, strict=True):
        assert other.score == pytest.approx(one.score, rel=0.1)
    run = runs[1]
    assert load_model(run.path, engine="auto").engine == "torch"
    with pytest.raises(RunError, match="has no such export"):
        _export(run, tmp_path / "out")


def _export(run: Run, out: Path) -> None:
    from toolkit.data.layouts import load_dataset
    from toolkit.methods.registry import load_method

    dataset = load_dataset(Path(run.record["data"]["root"]))
    export_run(run, load_method(run), dataset, out)


def test_a_small_bank_is_searched_exactly_and_that_is_said(tiny_runs: TinyRuns) -> None:
    run = tiny_runs("patchcore", index="ivf-pq")
    log = (run.path / "log.txt").read_text()
    assert "patches are searched exactly; it pays from 50000 on" in log


def test_faiss_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss is needed to use --index ivf-pq: pip inst"):
        IndexedBank(torch.zeros(4, 2))
