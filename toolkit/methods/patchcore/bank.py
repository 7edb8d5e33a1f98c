"""The memory bank: good patches, the search in them, and the file that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import WeightsError
from toolkit.files import atomic_write, read_json, write_json
from toolkit.methods.features.scorer import stamp
from toolkit.methods.patchcore.search import SearchName, make_search, principal_axes

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.methods.features.extractor import FeatureExtractor

SCHEMA = 1
_FEATURES = "bank.safetensors"
_META = "bank.json"
_DIRECT = "donot_use_mm_for_euclid_dist"


@dataclass(frozen=True)
class BankMeta:
    """What a bank was made of; a bank fits one extractor only.

    Attributes:
        backbone, layers, weights, weights_source, fingerprint: of the network.
        image_size, patch_size, stride, contrast: of the extractor.
        radius: largest distance of a sampled training patch to the bank, which tells how well the
            coreset covers.
        seen: number of patches that the training images had.
        kept: number of them that the coreset was chosen from.
        dimensions: principal axes of the bank along which patches are compared; 0: all.
    """

    backbone: str
    layers: tuple[str, ...]
    weights: str
    weights_source: str
    fingerprint: str
    image_size: int
    patch_size: int
    stride: int
    seen: int
    kept: int
    radius: float
    contrast: float = 1.0
    dimensions: int = 0

    def check_made_by(self, extractor: FeatureExtractor, folder: Path) -> None:
        """See to it that the bank was made by this extractor.

        Raises:
            WeightsError: it was not; the first difference is named.
        """
        for name, here in stamp(extractor).items():
            made = getattr(self, name)
            made = list(made) if isinstance(made, tuple) else made
            if made != here:
                raise WeightsError(
                    f"{folder}: the bank was made by {name}={_told(made)}, not {_told(here)}; "
                    "use the settings it was trained with, or train again"
                )


class MemoryBank:
    """Features of good patches, ready for search.

    Args:
        features: float32 tensor (m, d), whitened.
        whitening: the map that was applied to them and that queries need too, float32 (d, d).
        meta: what they were made of.
        search: what finds the nearest ones.

    Attributes:
        origin: mean of the features, (d,).
        axes: directions along which patches are compared, (d, dimensions), or None: all.

    Raises:
        MissingExtraError: the search is not installed.
    """

    def __init__(
        self, features: Tensor, whitening: Tensor, meta: BankMeta, *, search: SearchName = "torch"
    ) -> None:
        import torch

        self.features = features.contiguous()
        self.whitening = whitening.contiguous()
        self.meta = meta
        self._plain = torch.equal(whitening, torch.eye(len(whitening)).to(whitening))
        # Distances stay the same around another origin, and squares keep their digits.
        self.origin = features.mean(dim=0)
        centred = self.features - self.origin
        self.axes: Tensor | None = None
        if 0 < meta.dimensions < features.shape[1]:
            self.axes = principal_axes(centred)[0][:, : meta.dimensions].contiguous()
        self._search = make_search(self._along_axes(centred), search)

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def whitened(self, features: Tensor) -> Tensor:
        """Return features as they lie in the bank, float32 (n, d)."""
        return features if self._plain else features @ self.whitening

    def distances(self, queries: Tensor, k: int = 1) -> Tensor:
        """Return the mean distance of each query to its k nearest features of the bank.

        Args:
            queries: float32 tensor (n, d), whitened.
            k: neighbours, of which no more than the bank has are taken.

        Returns:
            Euclidean distances along `axes`, float32 (n,).
        """
        return self._search.distances(self._along_axes(queries - self.origin), min(k, len(self)))

    def _along_axes(self, centred: Tensor) -> Tensor:
        return centred if self.axes is None else centred @ self.axes

    def nearest(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the nearest features of the bank for one query, in all dimensions.

        Args:
            query: float32 tensor (d,), whitened.
            k: neighbours, at most the bank's length.

        Returns:
            Euclidean distances, float32 (k,), ascending, and indices, int64 (k,).
        """
        import torch

        # One pass over the bank, without a difference of its size in between.
        distances = torch.cdist(query[None], self.features, compute_mode=_DIRECT)[0]
        found = distances.topk(k, largest=False)
        return found.values, found.indices

    def reweighted(self, query: Tensor, neighbours: int) -> float:
        """Return the image score of PatchCore's equation 7.

        The distance counts less where the nearest feature of the bank is far from its own
        neighbours in the bank, as rare but good patches are.

        Args:
            query: the patch with the largest distance, float32 (d,), whitened.
            neighbours: how many neighbours of its nearest feature count; 0 or 1 leaves the
                distance as it is.
        """
        import torch

        distance, index = self.nearest(query, 1)
        count = min(neighbours, len(self))
        if count < 2:
            return float(distance[0])
        _, near = self.nearest(self.features[index[0]], count)
        around = (self.features[near] - query).square().sum(dim=1).sqrt()
        # Softmax is the formula's quotient of exponentials without their overflow. A feature is its
        # own first neighbour, so the smallest distance is that to the nearest feature.
        share = torch.softmax(around.double(), dim=0).min()
        return float(distance[0] * (1.0 - share))

    def save(self, folder: Path) -> None:
        """Write the features (safetensors) and what they are (JSON)."""
        from safetensors.torch import save_file

        with atomic_write(folder / _FEATURES) as temporary:
            save_file(
                {"features": self.features.cpu(), "whitening": self.whitening.cpu()}, str(temporary)
            )
        write_json(folder / _META, {"schema": SCHEMA, "count": len(self), **asdict(self.meta)})

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", search: SearchName = "torch") -> MemoryBank:
        """Read a bank.

        Raises:
            MissingExtraError: the search is not installed.
            WeightsError: it is missing, damaged or of another schema.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = folder / _FEATURES
        if not path.is_file() or not (folder / _META).is_file():
            raise WeightsError(f"{path}: no memory bank here; train patchcore first")
        record = read_json(folder / _META)
        try:
            if record.pop("schema") != SCHEMA:
                raise WeightsError(f"{folder / _META}: schema is not {SCHEMA}; train again")
            count = record.pop("count")
            meta = BankMeta(**{**record, "layers": tuple(record["layers"])})
            tensors = load_file(path, device=device)
            features, whitening = tensors["features"], tensors["whitening"]
        except (KeyError, TypeError, OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: damaged memory bank ({error}); train again") from error
        if features.shape[0] != count:
            raise WeightsError(f"{path}: does not belong to {_META} beside it; train again")
        return cls(features, whitening, meta, search=search)


def _told(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
