"""`FeatureScorer`: what all scorers on frozen features share, from training to export.

A scorer learns a `Head`, which turns the patch features of one image into scores. The same head
predicts in torch and is traced into the ONNX graph.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from toolkit.array_cache import ArrayCache
from toolkit.data.images import read_rgb
from toolkit.data.splits import Split
from toolkit.data.types import Sample, file_sha256
from toolkit.errors import DataError, WeightsError
from toolkit.files import atomic_write, read_json, write_json
from toolkit.methods.base import Method
from toolkit.methods.features.backbone import build_backbone
from toolkit.methods.features.extractor import FeatureExtractor, input_shape
from toolkit.methods.features.head import Head
from toolkit.methods.features.predictor import ScorerPredictor
from toolkit.methods.features.settings import FeatureSettings
from toolkit.methods.features.whitening import Whitener
from toolkit.methods.size import note_parameters
from toolkit.progress import track
from toolkit.runs.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

S = TypeVar("S", bound=FeatureSettings)

_RECORD, _TENSORS = "model.json", "model.safetensors"
_HALF_MAX = 65504.0  # largest float16
_SHAPE_IMAGES = 16
"""Good images whose shape chooses that of the input."""


class FeatureScorer(Method[S]):
    """A method that scores images by the frozen features of a pretrained network.

    Class attributes:
        min_good_images: good training images without which it cannot learn.
        default_layers: layers by backbone, where they are not those of the backbone's family.
    """

    min_defects: ClassVar[int] = 0
    min_good_images: ClassVar[int] = 1
    default_layers: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    settings: S

    @abstractmethod
    def learn(
        self, split: Split, good: Sequence[Sample], extractor: FeatureExtractor, run: Run
    ) -> Head:
        """Learn from the good training images, and from `split.train`'s defects if it uses them."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> Head:
        """Make the head again from its saved state."""

    def fit(self, split: Split, run: Run) -> None:
        """Learn from the training images and save the head; see `Method.fit`.

        Raises:
            DataError: too few good images, or no defects where the method needs some.
            WeightsError: the pretrained weights cannot be had, or training has diverged.
        """
        good = good_images(split, self.name, at_least=self.min_good_images)
        input_hw = self.input_hw(good)
        extractor = self.extractor(run, input_hw=input_hw)
        weights = extractor.backbone.weights
        run.update_metadata(weights=weights.name, weights_source=weights.source)
        head = self.learn(split, good, extractor, run)
        note_parameters(run, extractor.backbone.network, *head.networks())
        save_state(run, head.state(), extractor)

    def load(self, run: Run, *, device: str | None = None) -> ScorerPredictor:
        """Load the run's extractor and head; see `Method.load`.

        Args:
            run: the run.
            device: torch device; the run's if None.

        Raises:
            WeightsError: the state is missing, damaged, or was made with another extractor.
        """
        extractor = self.extractor(run, device=device, input_hw=saved_input_hw(run))
        state = load_state(run, extractor)
        try:
            head = self.restore(state, extractor)
        except (KeyError, RuntimeError) as error:
            path = run.weights / _TENSORS
            raise WeightsError(f"{path}: damaged (no {error}); train again") from error
        return ScorerPredictor(extractor, head, self.settings)

    def input_hw(self, good: Sequence[Sample]) -> tuple[int, int] | None:
        """Return the shape that fits the good images; None: a square. See `input_shape`."""
        if not self.settings.keep_aspect:
            return None
        chosen = {int(i) for i in np.linspace(0, len(good) - 1, _SHAPE_IMAGES)}
        shapes = [read_rgb(good[i].image).shape for i in sorted(chosen)]
        return input_shape([(h, w) for h, w, _ in shapes], self.settings.image_size)

    def extractor(
        self,
        run: Run,
        *,
        device: str | None = None,
        input_hw: tuple[int, int] | None = None,
    ) -> FeatureExtractor:
        """Build the feature extractor of the settings for inputs of a shape; None: a square."""
        settings = self.settings
        backbone = build_backbone(
            settings.backbone,
            weights=settings.weights,
            layers=settings.layers or self.default_layers.get(settings.backbone, ()),
            seed=run.seed,
        )
        return FeatureExtractor(
            backbone,
            image_size=settings.image_size,
            input_hw=input_hw,
            patch_size=settings.patch_size,
            stride=settings.feature_stride,
            device=device or run.device,
        )


def good_images(split: Split, method: str, *, at_least: int = 1) -> list[Sample]:
    """Return the good training images.

    Raises:
        DataError: there are fewer than `at_least`.
    """
    good = [s for s in split.train if not s.is_defect]
    if len(good) < at_least:
        held = f"{len(good)} good images" if good else "no good images"
        raise DataError(f"{split.dataset.root}: {held} to train on; {method} needs {at_least}")
    return good


def patch_features(sample: Sample, extractor: FeatureExtractor) -> Tensor:
    """Return the patch features of one image file, float32 (cells, channels)."""
    return extractor(read_rgb(sample.image))


class FeatureCache:
    """Patch features of training images on disk, so that many runs embed each image once.

    Predictions never read them: they are timed from the image file on.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor, self.layer_channels = extractor, extractor.layer_channels
        cells = extractor.grid_hw[0] * extractor.grid_hw[1]
        self._arrays = ArrayCache(
            "features",
            extractor.fingerprint(),
            shape=(cells, extractor.channels),
            dtype=np.float16,
        )

    def get(self, sample: Sample) -> Tensor:
        """Return the features of one image, float16 tensor (cells, channels), on the CPU."""
        import torch

        def compute() -> NDArray[np.float16]:
            features = patch_features(sample, self._extractor).clamp(-_HALF_MAX, _HALF_MAX)
            half: NDArray[np.float16] = features.cpu().half().numpy()
            return half

        return torch.from_numpy(self._arrays.get_or_compute(file_sha256(sample.image), compute))


def whitened_features(
    good: Sequence[Sample], cache: FeatureCache, *, max_images: int, shrinkage: float, seed: int
) -> tuple[list[Tensor], Whitener]:
    """Return whitened features of good images, and what whitens them.

    Args:
        good: images.
        cache: of their features.
        max_images: images that are taken at most; of more, an even draw.
        shrinkage: of the whitening.
        seed: of both draws.

    Returns:
        One float32 tensor (cells, channels) per image, and the whitener.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(good), generator=generator)[:max_images].tolist()
    features = [cache.get(good[i]) for i in track(sorted(drawn), "features")]
    rows = torch.cat(features).float()
    whitener = Whitener.fit(rows, cache.layer_channels, shrinkage=shrinkage, seed=seed)
    return [whitener(one) for one in features], whitener


def saved_input_hw(run: Run) -> tuple[int, int] | None:
    """Return the shape of a trained run's input; None where it is not told."""
    saved = _saved(run, "input_hw")
    return (int(saved[0]), int(saved[1])) if isinstance(saved, list) and len(saved) == 2 else None


def _saved(run: Run, key: str) -> object:
    path = run.weights / _RECORD
    record = read_json(path) if path.is_file() else None
    return record.get(key) if isinstance(record, dict) else None


def save_state(run: Run, state: Mapping[str, Tensor], extractor: FeatureExtractor) -> None:
    """Write tensors, and by which extractor they were made, into the run.

    Raises:
        WeightsError: a value is not finite.
    """
    from safetensors.torch import save_file

    path = run.weights / _TENSORS
    _check_finite(state, f"{path}: training has diverged; lower the learning rate")
    with atomic_write(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, str(temporary))
    record = {"method": run.method, "sha256": file_sha256(path), **extractor.fingerprint()}
    write_json(run.weights / _RECORD, record)


def load_state(run: Run, extractor: FeatureExtractor) -> dict[str, Tensor]:
    """Read the saved tensors onto the extractor's device.

    Raises:
        WeightsError: they are missing or damaged, or were made with another extractor; the first
            difference is named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, record_path = run.weights / _TENSORS, run.weights / _RECORD
    if not path.is_file() or not record_path.is_file():
        raise WeightsError(f"{path}: no trained {run.method} here; train it first")
    record = read_json(record_path)
    if not isinstance(record, dict):
        raise WeightsError(f"{record_path}: damaged; train again")
    for name, here in extractor.fingerprint().items():
        made = record.get(name)
        if made != here:
            raise WeightsError(
                f"{record_path}: was made with {name}={_text(made)}, not {_text(here)}; use the "
                "settings it was trained with, or train again"
            )
    if file_sha256(path) != record.get("sha256"):
        raise WeightsError(f"{path}: damaged (checksum differs from {_RECORD}); train again")
    try:
        state: dict[str, Tensor] = load_file(path, device=extractor.device)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: damaged ({error}); train again") from error
    _check_finite(state, f"{path}: damaged; train again")
    return state


def _check_finite(state: Mapping[str, Tensor], message: str) -> None:
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"{message} ({name} holds values that are not finite)")


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
