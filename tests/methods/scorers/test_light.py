"""PatchCore in a changed light."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.methods.scorers.test_patchcore import SMALL, _run
from toolkit.config import settings_dict
from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_split
from toolkit.data.splits import Split
from toolkit.methods.base import EnginePredictor
from toolkit.methods.features.scorer import saved_light
from toolkit.methods.scorers.patchcore import PatchCore
from toolkit.runs.run import Run
from toolkit.runtime.steps import light_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def split(sample_dir: Path) -> Split:
    return make_split(load_dataset(sample_dir), protocol="official")


def _fit(folder: Path, split: Split, **changes: object) -> Run:
    settings = dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
    run = _run(folder, settings)
    PatchCore(settings).fit(split, run)
    return run


def test_less_light_changes_the_score_only_where_it_is_not_evened(
    tmp_path: Path, split: Split
) -> None:
    image = read_rgb(split.test[0].image)
    darker = np.rint(image * 0.85).astype(np.uint8)
    apart = {}
    for even_light in (True, False):
        run = _fit(tmp_path / str(even_light), split, even_light=even_light)
        assert (saved_light(run) is not None) == even_light
        found = PatchCore(dataclasses.replace(SMALL, even_light=even_light)).load(run)
        one, other = found.predict([image, darker])
        apart[even_light] = abs(one.score - other.score)
    assert apart[True] < 0.2 * apart[False]


def test_engines_see_the_same_light(tmp_path: Path, split: Split) -> None:
    run = _fit(tmp_path, split)
    predictor = PatchCore(SMALL).load(run)
    light = saved_light(run)
    good = [s for s in split.train if not s.is_defect]
    assert light == pytest.approx(np.median([light_of(read_rgb(s.image)) for s in good]), abs=10)
    graph = predictor.graph()
    assert graph is not None
    module = graph.module

    def network(image: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            return [one.numpy() for one in module(torch.from_numpy(image))]

    image = np.clip(read_rgb(split.test[0].image) * 1.1, 0, 255).astype(np.uint8)
    (plain,), (engine,) = (
        one.predict([image]) for one in (predictor, EnginePredictor(predictor.steps(), network))
    )
    assert engine.score == pytest.approx(plain.score, rel=1e-4)


def test_an_extended_bank_keeps_its_light(tmp_path: Path, split: Split) -> None:
    base = _fit(tmp_path / "base", split)
    settings = dataclasses.replace(SMALL, base_run=str(base.path))
    run = Run.create(
        tmp_path / "next", method="patchcore", settings=settings_dict(settings), split={}, data={}
    )
    PatchCore(settings).fit(split, run)
    assert saved_light(run) == saved_light(base)
