"""What a run costs: from what was noted, never made up."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.metrics.values import Undefined
from toolkit.runs.costs import checkpoint_bytes, costs
from toolkit.runs.environment import forget_peak_memory, peak_memory_bytes
from toolkit.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, method="m", settings={}, split={"fold": 0}, data={})


def other(run: Run, **values: object) -> Run:
    return Run(path=run.path, record={**run.record, "metadata": values})


def test_folds_add_up_and_the_largest_counts(run: Run) -> None:
    one = other(run, fit_seconds=1.5, peak_memory_mb=100, checkpoint_bytes=2_000_000)
    two = other(run, fit_seconds=2.0, peak_memory_mb=300, checkpoint_bytes=1, parameters=4_062_000)
    assert costs([one, two]) == {
        "fit_seconds": 3.5,
        "peak_memory_mb": 300.0,
        "checkpoint_mb": 2.0,
        "parameters_millions": 4.062,
    }


def test_what_was_not_recorded_has_a_reason(run: Run) -> None:
    said = costs([other(run, parameters="many", peak_memory_mb=True)])
    assert said.pop("fit_seconds") == 0
    assert set(said.values()) == {Undefined("the run did not record it")}


def test_states_of_the_optimiser_are_no_part_of_the_checkpoint(run: Run) -> None:
    assert checkpoint_bytes(run) is None
    assert not (run.path / "weights").exists()  # nothing is made by looking
    (run.weights / "last.pt").write_bytes(b"x" * 1000)
    assert checkpoint_bytes(run) is None
    (run.weights / "best.safetensors").write_bytes(b"x" * 70)
    (run.weights / "deep").mkdir()
    (run.weights / "deep/more.json").write_bytes(b"x" * 7)
    assert checkpoint_bytes(run) == 77


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets")
def test_one_run_does_not_inherit_the_peak_of_another() -> None:
    size = 64 << 20
    forget_peak_memory()
    before = peak_memory_bytes()
    # Pages of its own: an allocator may hand out memory that is resident already.
    with mmap.mmap(-1, size) as block:
        block.write(b"x" * size)
        assert peak_memory_bytes() - before >= size // 2
    forget_peak_memory()
    assert peak_memory_bytes() - before < 16 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only getrusage knows")
def test_a_process_does_not_inherit_the_peak_of_the_one_that_started_it() -> None:
    said = "from toolkit.runs.environment import peak_memory_bytes; print(peak_memory_bytes())"
    with mmap.mmap(-1, 256 << 20) as block:
        block.write(b"x" * len(block))
        done = subprocess.run(
            [sys.executable, "-c", said], capture_output=True, text=True, check=True
        )
    assert 1 << 20 < int(done.stdout) < 128 << 20
