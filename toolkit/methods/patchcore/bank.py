"""The memory bank: good patches, the search in them, and the file that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import WeightsError
from toolkit.files import read_json, write_json, written_whole

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
_FEATURES = "bank.safetensors"
_META = "bank.json"


@dataclass(frozen=True)
class BankMeta:
    """What a bank was made of; a bank fits one extractor only.

    Attributes:
        backbone, layers, weights, weights_source, fingerprint: of the network.
        image_size, patch_size, stride: of the extractor.
        radius: largest distance of a sampled training patch to the bank, which tells how well the
            coreset covers.
        seen: number of patches that the training images had.
        kept: number of them that the coreset was chosen from.
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


class MemoryBank:
    """Features of good patches, ready for search.

    Args:
        features: float32 tensor (m, d), whitened.
        whitening: the map that was applied to them and that queries need too, float32 (d, d).
        meta: what they were made of.
    """

    def __init__(self, features: Tensor, whitening: Tensor, meta: BankMeta) -> None:
        self.features = features.contiguous()
        self.whitening = whitening.contiguous()
        self.meta = meta
        # Distances stay the same around another origin, and the expanded square keeps its digits.
        self._origin = features.mean(dim=0)
        self._centred = features - self._origin
        self._half_squares = self._centred.square().sum(dim=1).mul_(0.5)

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def nearest(self, queries: Tensor, k: int = 1, *, chunk: int = 512) -> tuple[Tensor, Tensor]:
        """Find the nearest features of the bank.

        Args:
            queries: float32 tensor (n, d), whitened.
            k: neighbours per query, at most the bank's length.
            chunk: queries per matrix product, which bounds the memory to chunk × bank numbers.

        Returns:
            Euclidean distances, float32 (n, k), ascending, and indices, int64 (n, k).
        """
        import torch

        found = []
        transposed = self._centred.T
        centred = queries - self._origin
        for part in torch.split(centred, chunk):
            # Half the squared distance without the query's own square, which orders alike.
            partial = torch.addmm(self._half_squares, part, transposed, alpha=-1.0)
            if k == 1:
                found.append(partial.min(dim=1, keepdim=True).indices)
            else:
                found.append(partial.topk(k, dim=1, largest=False).indices)
        indices = torch.cat(found)
        # The expanded square cancels badly near zero: distances of the winners are taken anew.
        distances = (centred[:, None] - self._centred[indices]).square().sum(dim=2).sqrt()
        return distances, indices

    def reweighted(self, query: Tensor, distance: Tensor, index: int, neighbours: int) -> float:
        """Return the image score of PatchCore's equation 7.

        The distance counts less where the nearest patch has equally near neighbours in the bank,
        that is, where the bank is dense around the query.

        Args:
            query: the patch with the largest distance, float32 (d,).
            distance: its distance to the nearest patch of the bank.
            index: that patch.
            neighbours: how many of its neighbours in the bank count; 0 or 1 leaves the distance.
        """
        import torch

        if neighbours < 2 or len(self) < 2:
            return float(distance)
        count = min(neighbours, len(self))
        _, near = self.nearest(self.features[index][None], count)
        distances = (self.features[near[0]] - query).square().sum(dim=1).sqrt()
        # The patch itself is its own first neighbour; softmax is the formula without overflow.
        own = torch.softmax(distances, dim=0)[near[0] == index]
        return float(distance * (1.0 - own.sum()))

    def save(self, folder: Path) -> None:
        """Write the features (safetensors) and what they are (JSON)."""
        from safetensors.torch import save_file

        with written_whole(folder / _FEATURES) as temporary:
            save_file(
                {"features": self.features.cpu(), "whitening": self.whitening.cpu()}, str(temporary)
            )
        write_json(folder / _META, {"schema": SCHEMA, "count": len(self), **asdict(self.meta)})

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> MemoryBank:
        """Read a bank.

        Raises:
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
        return cls(features, whitening, meta)
