"""The sample as a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.data.layouts import load_dataset
from toolkit.data.types import Dataset


@pytest.fixture
def dataset(sample_dir: Path) -> Dataset:
    return load_dataset(sample_dir)
