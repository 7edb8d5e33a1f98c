"""Features of training images on disk, so that a study of many runs embeds each image once.

<cache>/features/<hash of the extractor>/<image sha256>.npy      float16, (cells, channels)

Predictions never read them: they are timed from the image file on.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.types import Sample, file_sha256
from toolkit.files import atomic_write
from toolkit.home import cache_dir
from toolkit.methods.features.scorer import features_of, stamp

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.methods.features.extractor import FeatureExtractor


class FeatureCache:
    """Features of whole images by one extractor.

    Attributes:
        hits: images whose features were on disk.
        misses: images whose features were computed.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        text = json.dumps(stamp(extractor), sort_keys=True)
        self._extractor = extractor
        self._folder = cache_dir() / "features" / hashlib.sha256(text.encode()).hexdigest()[:12]
        self.hits = self.misses = 0

    def get(self, sample: Sample) -> Tensor:
        """Return the features of one image, float16 tensor (cells, channels), on the CPU.

        Raises:
            DataError: the image cannot be read.
            OutputError: the cache cannot be written.
        """
        import torch

        path = self._folder / f"{file_sha256(sample.image)}.npy"
        rows, columns = self._extractor.grid_hw
        if path.is_file():
            try:
                stored = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError):  # cut short by a full disk: made again
                stored = np.zeros(0)
            if stored.shape == (rows * columns, self._extractor.channels):
                self.hits += 1
                return torch.from_numpy(stored)
        self.misses += 1
        found = features_of(sample, self._extractor).cpu().half()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, found.numpy())
        return found
