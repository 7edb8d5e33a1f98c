"""What all scorers on frozen features do alike: build the extractor, keep state, answer images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.images import read_rgb
from toolkit.data.splits import Split
from toolkit.data.types import Sample
from toolkit.errors import DataError, WeightsError
from toolkit.files import atomic_write, read_json, write_json
from toolkit.methods.features.backbone import build_backbone
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.maps import image_score, smooth, to_image_grid
from toolkit.prediction import Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from toolkit.methods.features.settings import FeatureSettings
    from toolkit.runs.run import Run

_META = "model.json"
_TENSORS = "model.safetensors"


def good_images(split: Split, method: str, *, least: int = 1) -> list[Sample]:
    """Return the good training images.

    Raises:
        DataError: there are fewer than `least`.
    """
    good = [s for s in split.train if not s.is_defect]
    if not good:
        raise DataError(
            f"{split.dataset.root}: no good images to train on; {method} learns from them"
        )
    if len(good) < least:
        raise DataError(
            f"{split.dataset.root}: {len(good)} good images to train on; {method} needs {least}"
        )
    return good


def build_extractor(
    settings: FeatureSettings, run: Run, *, device: str | None = None
) -> FeatureExtractor:
    """Build the extractor of a run's settings, on the run's device if none is given."""
    backbone = build_backbone(
        settings.backbone, weights=settings.weights, layers=settings.layers, seed=run.seed
    )
    return FeatureExtractor(
        backbone,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        stride=settings.stride,
        contrast=settings.contrast,
        device=device or run.device,
    )


def training_extractor(settings: FeatureSettings, run: Run) -> FeatureExtractor:
    """Build the extractor, and note in the run what its weights are."""
    extractor = build_extractor(settings, run)
    run.update_metadata(
        weights=extractor.backbone.weights.name,
        weights_source=extractor.backbone.weights.source,
    )
    return extractor


def features_of(sample: Sample, extractor: FeatureExtractor) -> Tensor:
    """Return the patch features of one image file, float32 (cells, channels)."""
    return extractor(read_rgb(sample.image))


def answer(sample: Sample, cells: NDArray[np.float32], settings: FeatureSettings) -> Prediction:
    """Make a prediction from the scores of the cells.

    Args:
        sample: the image.
        cells: float32 array (rows, columns), higher is worse.
        settings: of the map and of the image score.
    """
    size = settings.image_size
    anomaly_map = smooth(to_image_grid(cells, (size, size)), settings.sigma)
    score = image_score(anomaly_map, settings.image_score)
    return Prediction(sample_id=sample.id, score=score, anomaly_map=anomaly_map)


def save_state(run: Run, tensors: Mapping[str, Tensor], extractor: FeatureExtractor) -> None:
    """Write what was learnt (safetensors) and by which extractor (JSON) into the run."""
    from safetensors.torch import save_file

    with atomic_write(run.weights / _TENSORS) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(temporary))
    write_json(run.weights / _META, {"method": run.method, **stamp(extractor)})


def load_state(run: Run, names: Sequence[str], extractor: FeatureExtractor) -> dict[str, Tensor]:
    """Read what was learnt, onto the extractor's device.

    Raises:
        WeightsError: it is missing, damaged, or belongs to another extractor.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = run.weights / _TENSORS
    if not path.is_file() or not (run.weights / _META).is_file():
        raise WeightsError(f"{path}: nothing learnt here; train {run.method} first")
    record = read_json(run.weights / _META)
    check_stamp(record if isinstance(record, dict) else {}, extractor, run.weights / _META)
    try:
        tensors: dict[str, Tensor] = load_file(path, device=extractor.device)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: damaged ({error}); train again") from error
    missing = [name for name in names if name not in tensors]
    if missing:
        raise WeightsError(f"{path}: damaged (no {missing[0]}); train again")
    return tensors


def stamp(extractor: FeatureExtractor) -> dict[str, Any]:
    """Return what the features of an extractor depend on, as JSON values."""
    backbone = extractor.backbone
    return {
        "backbone": backbone.name,
        "layers": list(backbone.layers),
        "weights": backbone.weights.name,
        "fingerprint": backbone.fingerprint,
        "image_size": extractor.image_size,
        "patch_size": extractor.patch_size,
        "stride": extractor.stride,
        "contrast": extractor.contrast,
    }


def check_stamp(record: Mapping[str, Any], extractor: FeatureExtractor, path: Path) -> None:
    """See to it that stored state belongs to an extractor.

    Raises:
        WeightsError: it was made by another one; the first difference is named.
    """
    record = {"contrast": 1.0, **record}  # which earlier ones do not tell
    for name, here in stamp(extractor).items():
        if record.get(name) != here:
            told = record.get(name)
            raise WeightsError(
                f"{path}: was made by {name}={told}, not {here}; use the settings it was trained "
                "with, or train again"
            )
