"""Cached arrays are exact, damaged files are computed again, and recipes are kept apart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.array_cache import ArrayCache
from toolkit.files import OutputError

VALUE = np.array([[1, 2], [3, 4]], np.float32)


def make(folder: Path, recipe: Mapping[str, Any] | None = None, **options: Any) -> ArrayCache:
    options = {"shape": (None, 2), "dtype": np.float32, **options}
    return ArrayCache("kind", recipe or {"a": 1}, folder=folder, **options)


def never() -> np.ndarray:
    pytest.fail("it is stored and must not be computed")


def test_computed_once(tmp_path: Path) -> None:
    cache = make(tmp_path)
    assert "key" not in cache
    assert cache.get("key") is None
    assert cache.get_or_compute("key", lambda: VALUE) is VALUE
    again = make(tmp_path)
    assert "key" in again
    found = again.get_or_compute("key", never)
    np.testing.assert_array_equal(found, VALUE)
    assert found.dtype == np.float32
    assert (cache.hits, cache.misses, again.hits, again.misses) == (0, 1, 1, 0)


@pytest.mark.parametrize("other", [{"a": 2}, {"a": 1, "b": 1}, {"a": [1]}])
def test_another_recipe_is_another_folder(tmp_path: Path, other: dict[str, Any]) -> None:
    make(tmp_path).put("key", VALUE)
    assert make(tmp_path, other).get("key") is None


def test_the_order_of_a_recipe_does_not_matter(tmp_path: Path) -> None:
    one, other = make(tmp_path, {"a": 1, "b": 2}), make(tmp_path, {"b": 2, "a": 1})
    assert one.folder == other.folder


@pytest.mark.parametrize(
    "damage",
    ["empty", "text", "truncated", "shape", "dimensions", "dtype", "nan", "infinity", "pickle"],
)
def test_a_damaged_file_is_computed_again(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make(tmp_path)
    cache.put("key", VALUE)
    path = cache.path("key")
    whole = path.read_bytes()
    arrays = {
        "shape": np.zeros((2, 3), np.float32),
        "dimensions": np.zeros(2, np.float32),
        "dtype": VALUE.astype(np.float64),
        "nan": np.full((2, 2), np.nan, np.float32),
        "infinity": np.full((2, 2), np.inf, np.float32),
    }
    if damage in arrays:
        np.save(path, arrays[damage])
    elif damage == "pickle":
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    else:
        path.write_bytes({"empty": b"", "text": b"text", "truncated": whole[:-3]}[damage])
    np.testing.assert_array_equal(cache.get_or_compute("key", lambda: VALUE), VALUE)
    assert cache.rebuilt == [path]
    assert capsys.readouterr().err == f"{path}: damaged; computing it again\n"
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "array",
    [VALUE.astype(np.float64), np.zeros((2, 3), np.float32), np.full((1, 2), np.nan, np.float32)],
)
def test_what_would_count_as_damaged_is_not_stored(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        make(tmp_path).put("key", array)
    assert not make(tmp_path).folder.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "kind").write_text("a file")
    with pytest.raises(OutputError, match="kind"):
        make(tmp_path).put("key", VALUE)


def test_processes_share_a_cache(tmp_path: Path) -> None:
    code = f"""
import numpy as np
from pathlib import Path
from toolkit.array_cache import ArrayCache
folder = Path({str(tmp_path)!r})
cache = ArrayCache("kind", {{"a": 1}}, shape=(None, 2), dtype=np.float32, folder=folder)
for i in range(50):
    array = np.full((1000, 2), i, np.float32)
    found = cache.get_or_compute(str(i), lambda: array)
    assert (found == i).all() and found.shape == (1000, 2)
assert cache.rebuilt == []
"""
    root = Path(__file__).resolve().parents[1]
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=root) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert len(list(make(tmp_path).folder.iterdir())) == 50
