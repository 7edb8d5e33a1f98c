"""PatchCore on the real bottle, official protocol, with ImageNet weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.config import settings_dict
from toolkit.data.images import read_truth
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.scorers.patchcore import PatchCore
from toolkit.metrics.pixel import pixel_metrics
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run


@pytest.mark.real
@pytest.mark.slow
def test_official_protocol(bottle_dir: Path, real_home: Path, tmp_path: Path) -> None:
    import cv2
    from sklearn.metrics import roc_auc_score

    dataset = load_dataset(bottle_dir)
    split = make_plan(dataset, protocol="official").fold(dataset, 0)
    split = replace(split, train=split.train[::2])  # their features cost the time
    settings = PatchCore.Settings()
    run = Run.create(
        tmp_path, method="patchcore", settings=settings_dict(settings), split={}, data={}
    )
    seed_everything(0)
    PatchCore(settings).fit(split, run)
    predictions = list(predict_samples(PatchCore(settings).load(run), split.test))

    class Pairs:
        def __iter__(self) -> Iterator[Any]:
            for sample, prediction in zip(split.test, predictions, strict=True):
                truth = read_truth(sample)
                size_wh = (truth.shape[1], truth.shape[0])
                assert prediction.anomaly_map is not None
                yield cv2.resize(prediction.anomaly_map, size_wh), truth

    labels = [s.is_defect for s in split.test]
    assert roc_auc_score(labels, [p.score for p in predictions]) == 1.0
    pixel = pixel_metrics(Pairs(), limits=(0.3,))
    # What is measured, less a margin for other processors' rounding.
    assert float(np.float64(pixel.auroc)) > 0.96  # type: ignore[arg-type]
    assert float(np.float64(pixel.aupro[0.3])) > 0.85  # type: ignore[arg-type]
