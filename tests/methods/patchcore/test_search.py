"""The searches: each gives the distances that plain arithmetic in double precision gives."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import MissingExtraError
from toolkit.methods.patchcore import search as module
from toolkit.methods.patchcore.search import (
    ExactSearch,
    FaissSearch,
    ScreenedSearch,
    make_search,
)


def _reference(queries: torch.Tensor, bank: torch.Tensor, k: int) -> torch.Tensor:
    apart = (queries.double()[:, None] - bank.double()[None]).square().sum(dim=2).sqrt()
    return apart.topk(k, dim=1, largest=False).values.mean(dim=1)


def _random(seed: int, count: int, width: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) * scale


@given(
    seed=st.integers(0, 2**20),
    count=st.integers(1, 300),
    width=st.integers(1, 70),
    k=st.integers(1, 12),
    log_scale=st.floats(-3, 3),
    closeness=st.sampled_from([0.0, 1e-4, 0.03, 1.0]),
    flatness=st.sampled_from([0.0, 0.1, 1.0]),  # of the variances, by which axes are cut off
)
@settings(max_examples=200, deadline=None)
def test_screened_search_is_exact(
    seed: int,
    count: int,
    width: int,
    k: int,
    log_scale: float,
    closeness: float,
    flatness: float,
) -> None:
    scale = 10.0**log_scale
    axes = torch.linalg.qr(_random(seed, width, width, 1.0)).Q * torch.arange(1, width + 1) ** (
        flatness - 1.0
    )
    bank = _random(seed, count, width, scale) @ axes
    places = torch.randint(count, (20,), generator=torch.Generator().manual_seed(seed))
    # From equal to a patch of the bank, over as near as 16 bits tell apart, to far away.
    queries = bank[places] + closeness * _random(seed + 1, 20, width, scale) @ axes
    k = min(k, count)
    found = ScreenedSearch(bank).distances(queries, k)
    expected = _reference(queries, bank, k)
    largest = float(expected.max())
    assert float((found - expected).abs().max()) <= 1e-6 * largest + 1e-30


def test_ties_and_duplicates_count_as_often_as_they_are_there() -> None:
    bank = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 2.0]] * 38)  # 40 patches in 3 groups
    screened = ScreenedSearch(bank)
    assert screened.distances(torch.zeros(1, 2), 2).tolist() == [1.0]
    assert screened.distances(torch.zeros(1, 2), 3).tolist() == pytest.approx([4 / 3])
    assert screened.distances(torch.zeros(1, 2), 4).tolist() == pytest.approx([1.5])


def test_screening_looks_at_few(monkeypatch: pytest.MonkeyPatch) -> None:
    # Real patches leave two candidates of 4,000; were all of them left, nothing would be gained.
    bank, queries = _random(0, 4000, 64, 1.0), _random(1, 300, 64, 1.0)
    looked = []
    real = torch.bincount
    monkeypatch.setattr(torch, "bincount", lambda x, **w: looked.append(len(x)) or real(x, **w))
    ScreenedSearch(bank).distances(queries, 1)
    assert sum(looked) < 10 * len(queries)


def test_where_all_are_equally_far_the_full_product_takes_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = torch.zeros(4000, 4)
    screened = ScreenedSearch(bank)
    calls = []
    real = screened._exact.distances
    monkeypatch.setattr(screened._exact, "distances", lambda *w: calls.append(w) or real(*w))
    assert screened.distances(torch.ones(3, 4), 1).tolist() == [2.0, 2.0, 2.0]
    assert len(calls) == 1
    monkeypatch.setattr(module, "_MANY", 10**6)
    assert screened.distances(torch.ones(3, 4), 1).tolist() == [2.0, 2.0, 2.0]
    assert len(calls) == 1  # the other way gives the same


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("count", [1, 1023, 1025])  # around the length of a chunk
def test_all_searches_agree(k: int, count: int) -> None:
    bank, queries = _random(0, 40, 16, 1.0), _random(1, count, 16, 1.0)
    expected = _reference(queries, bank, k).float()
    for search in (ExactSearch(bank), ScreenedSearch(bank)):
        torch.testing.assert_close(search.distances(queries, k), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_faiss_agrees(k: int) -> None:
    pytest.importorskip("faiss")
    bank, queries = _random(0, 400, 48, 1.0), _random(1, 100, 48, 1.0)
    found = make_search(bank, "faiss").distances(queries, k)
    torch.testing.assert_close(found, _reference(queries, bank, k).float(), rtol=1e-5, atol=1e-5)


def test_faiss_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **words: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest, **words)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'inspection-toolkit\[faiss\]'"):
        FaissSearch(torch.zeros(2, 2))


@pytest.mark.parametrize(("has_it", "kind"), [(True, ScreenedSearch), (False, ExactSearch)])
def test_screening_needs_a_processor_for_it(
    has_it: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "multiplies_16_bit", lambda: has_it)
    assert type(make_search(torch.zeros(2, 2), "torch")) is kind


def test_axes_with_nearly_all_of_the_variance() -> None:
    deviations = torch.tensor([3.0, 0.1, 1.0, 0.01])  # shares .89, .001, .1, ...
    screened = ScreenedSearch(_random(0, 2000, 4, 1.0) * deviations)
    assert screened._head == 2
    short = screened._shortened(torch.tensor([[3.0, 4.0, 5.0, 12.0]]))
    assert short.abs()[0].tolist() == pytest.approx([3.0, 5.0, math.hypot(4, 12)], rel=0.05)


def test_empty_answer_is_not_silent() -> None:
    # A query that is no number has no nearest patch, and does not pass for a good one.
    found = ScreenedSearch(_random(0, 20, 4, 1.0)).distances(torch.full((1, 4), math.nan), 1)
    assert not bool(found.isfinite().all())
