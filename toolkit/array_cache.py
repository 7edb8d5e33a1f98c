"""Arrays on disk that can be computed again: features, SAM encodings, resized images."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.files import atomic_write
from toolkit.home import cache_dir
from toolkit.verification.checksums import trailer, without_trailer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ArrayCache:
    """A folder of arrays of one shape and dtype, one `.npy` file per key.

    A damaged, truncated or non-finite file is reported on standard error and computed again. Files
    appear whole, so several threads and processes may share a cache. Each ends with its SHA-256.

    Example:
        >>> cache = ArrayCache("features", {"backbone": "resnet18"}, shape=(2,), dtype=np.float32)
        >>> cache.get_or_compute("image-sha256", lambda: np.zeros(2, np.float32)).shape
        (2,)

    Args:
        kind: folder under the cache folder, such as `features`.
        recipe: everything that the arrays depend on apart from the key (JSON values); another
            recipe is another folder.
        shape: shape of every array; None for an axis whose size differs.
        dtype: dtype of every array.
        folder: the cache folder; `<home>/cache` if None.

    Attributes:
        folder: where the files of this recipe are.
        hits: number of arrays that were read from disk.
        misses: number of arrays that had to be computed.
        rebuilt: damaged files that were computed again.
    """

    def __init__(
        self,
        kind: str,
        recipe: Mapping[str, Any],
        *,
        shape: tuple[int | None, ...],
        dtype: type[np.generic],
        folder: Path | None = None,
    ) -> None:
        text = json.dumps(recipe, sort_keys=True)
        base = folder if folder is not None else cache_dir()
        self.folder = base / kind / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.hits = self.misses = 0
        self.rebuilt: list[Path] = []
        self._shape, self._dtype = shape, np.dtype(dtype)

    def path(self, key: str) -> Path:
        """Return the file of a key; the key is a plain file name without its ending."""
        return self.folder / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def get(self, key: str) -> NDArray[Any] | None:
        """Return a stored array; None if there is none or it is damaged."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            stored = self._parsed(path.read_bytes())
        except (OSError, ValueError, EOFError):
            stored = None
        if not self._fits(stored):
            self.rebuilt.append(path)
            print(f"{path}: damaged; computing it again", file=sys.stderr)
            return None
        self.hits += 1
        array: NDArray[Any] = stored
        return array

    def put(self, key: str, array: NDArray[Any]) -> None:
        """Store an array.

        Raises:
            OutputError: the cache cannot be written.
            ValueError: another shape or dtype than this cache holds, or values that are not finite.
        """
        if not self._fits(array):
            raise ValueError(
                f"{key}: {array.dtype} {array.shape} with finite values expected to be "
                f"{self._dtype} {self._shape}"
            )
        content = BytesIO()
        np.save(content, array, allow_pickle=False)
        with atomic_write(self.path(key)) as temporary, temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.write(trailer(content.getvalue()))  # NumPy ignores what comes behind an array

    def get_or_compute(self, key: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return a stored array, computing and storing it first if it is missing or damaged."""
        stored = self.get(key)
        if stored is None:
            self.misses += 1
            stored = compute()
            self.put(key, stored)
        return stored

    def _parsed(self, data: bytes) -> Any:
        """Return the array in a file; None where it differs from its checksum or is cut."""
        content, is_whole = without_trailer(data)
        if is_whole is False:
            return None
        file = BytesIO(content)
        stored = np.load(file, allow_pickle=False)
        return stored if file.tell() == len(content) else None  # else a cut trailer

    def _fits(self, array: Any) -> bool:
        if not isinstance(array, np.ndarray) or array.dtype != self._dtype:
            return False
        if array.ndim != len(self._shape) or any(
            wanted not in (None, side)
            for wanted, side in zip(self._shape, array.shape, strict=True)
        ):
            return False
        return array.dtype.kind != "f" or bool(np.isfinite(array).all())
