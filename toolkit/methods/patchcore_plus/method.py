"""PatchCore with a bank of defect patches beside that of good ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from toolkit.config import setting
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError, WeightsError
from toolkit.files import atomic_write
from toolkit.methods.base import Labels, Method
from toolkit.methods.features.defects import (
    cells_in,
    labelled_defects,
    pseudo_images,
    truth_cells,
    wants_pseudo,
)
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.scorer import features_of, good_images
from toolkit.methods.features.settings import at_least
from toolkit.methods.patchcore.bank import MemoryBank
from toolkit.methods.patchcore.method import PatchCore
from toolkit.methods.patchcore.settings import PatchCoreSettings
from toolkit.prediction import Prediction
from toolkit.progress import track
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.methods.base import Exported

_DEFECTS = "defects.safetensors"


@dataclass(frozen=True)
class PatchCorePlusSettings(PatchCoreSettings):
    """Settings of PatchCore and of the bank of defects."""

    boost: float = setting(1.0, "a patch equal to a known defect scores 1 + boost times as much")
    defect_patches: int = setting(4000, "defect patches kept at most, drawn evenly")
    pseudo: Literal["auto", "always", "never"] = setting(
        "auto", "pseudo-defects (CutPaste, Perlin): where no defect is labelled, always, or never"
    )
    pseudo_count: int = setting(64, "how many pseudo-defects are made")

    def __post_init__(self) -> None:
        """Reject values that nothing can be learnt with.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        at_least(self, boost=0, defect_patches=1, pseudo_count=1)


class PatchCorePlus(Method[PatchCorePlusSettings]):
    """PatchCore whose scores rise where a patch resembles a labelled defect.

    A patch scores d · (1 + boost · exp(-e / t)), where d is its distance to good patches, e that
    to defect patches and t the typical distance of good patches to the bank. It never scores less
    than with PatchCore, so that defects of a kind that nobody labelled are not lost.
    """

    name: ClassVar[str] = "patchcore+"
    Settings: ClassVar[type] = PatchCorePlusSettings
    labels: ClassVar[Labels] = "mask"
    score_description: ClassVar[str] = "distance to good patches, raised near labelled defects"
    min_defects: ClassVar[int] = 0

    def fit(self, split: Split, run: Run) -> None:
        """Fill the bank of good patches, then that of defects from the masks of labelled ones.

        Raises:
            DataError: no good images, or no defects and no pseudo-defects wanted.
        """
        base = PatchCore(self.settings)
        base.fit(split, run)
        extractor, bank = base.parts(run)
        patches = bank.whitened(self._defect_patches(split, extractor, run))
        # Patches at a defect's rim that look like good ones would raise good images.
        distances = bank.distances(patches)
        typical, high = self._good_distances(split, extractor, bank)
        kept = patches[distances > high]
        kept = kept if len(kept) else patches[distances.argmax()][None]
        run.update_metadata(defect_patches_seen=len(patches), defect_patches=len(kept))
        _save(run.weights, _thinned(kept, self.settings.defect_patches, run.seed), typical)

    def predict(self, samples: Sequence[Sample], run: Run) -> Iterator[Prediction]:
        """Yield one prediction with a anomaly map per sample; see `Method.predict`.

        Raises:
            WeightsError: a bank is missing or was made by another backbone.
        """
        base = PatchCore(self.settings)
        extractor, bank = base.parts(run)
        defects, scale = _load(run.weights, run.device)
        # Along the few axes in which defects vary, good patches could lie near them.
        meta = replace(bank.meta, dimensions=0)
        known = MemoryBank(defects, bank.whitening, meta, search=self.settings.search)
        for sample in samples:
            patches = bank.whitened(features_of(sample, extractor))
            near = (-known.distances(patches) / scale).exp()
            raised = 1.0 + self.settings.boost * near
            yield base.answer(sample, patches, extractor, bank, raised=raised)

    def export(self, run: Run, out: Path, samples: Sequence[Sample]) -> Exported:
        """Write `model.onnx`: feature extractor and both searches; see `export_scorer`.

        Raises:
            MissingExtraError: ONNX is not installed.
            WeightsError: a bank is missing or was made by another backbone.
        """
        from toolkit.methods.features.export import export_scorer
        from toolkit.methods.patchcore.export import DefectsHead

        settings = self.settings
        extractor, bank = PatchCore(settings).parts(run, device="cpu")
        defects, scale = _load(run.weights, "cpu")
        head = DefectsHead(bank, settings, defects, scale=scale, boost=settings.boost)
        predictions = self.predict(samples, run)
        return export_scorer(extractor, head, settings, out, samples, predictions)

    def _defect_patches(self, split: Split, extractor: FeatureExtractor, run: Run) -> Tensor:
        import torch

        settings = self.settings
        labelled = [s for s in labelled_defects(split) if s.masks]
        found = [features_of(s, extractor)[truth_cells(s, extractor)] for s in labelled]
        if wants_pseudo(settings.pseudo, labelled):
            good = good_images(split, self.name)
            made = pseudo_images(good, settings.pseudo_count, seed=run.seed)
            shown = track(made, "pseudo-defects", settings.pseudo_count)
            found += [extractor(image)[cells_in(mask, extractor)] for image, mask in shown]
            run.update_metadata(pseudo_defects=settings.pseudo_count)
        if not found:
            raise DataError(
                f"{split.dataset.root}: no defect with a mask to learn from; use the protocol "
                "supervised, or --pseudo auto"
            )
        return torch.cat(found)

    def _good_distances(
        self, split: Split, extractor: FeatureExtractor, bank: MemoryBank
    ) -> tuple[float, float]:
        """Return median and 99th percentile of the distances of patches of some good images."""
        import torch

        held_out = [s for s in split.val if not s.is_defect] or good_images(split, self.name)
        distances = torch.cat(
            [bank.distances(bank.whitened(features_of(s, extractor))) for s in held_out[:10]]
        ).cpu()
        return max(float(distances.median()), 1e-6), float(distances.double().quantile(0.99))


def _thinned(patches: Tensor, count: int, seed: int) -> Tensor:
    import torch

    if len(patches) <= count:
        return patches
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))
    return patches[order[:count]]


def _save(folder: Path, patches: Tensor, scale: float) -> None:
    import torch
    from safetensors.torch import save_file

    with atomic_write(folder / _DEFECTS) as temporary:
        tensors = {"patches": patches.cpu().contiguous(), "scale": torch.tensor(scale)}
        save_file(tensors, str(temporary))


def _load(folder: Path, device: str) -> tuple[Tensor, float]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _DEFECTS
    if not path.is_file():
        raise WeightsError(f"{path}: no bank of defects here; train patchcore+ first")
    try:
        tensors = load_file(path, device=device)
        return tensors["patches"], float(tensors["scale"])
    except (KeyError, OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: damaged ({error}); train again") from error
