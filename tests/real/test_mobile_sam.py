"""MobileSAM on the real bottle: a box prompt gives the bottle, and not the background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.weights.fetch import find
from toolkit.weights.mobile_sam_network import build_mobile_sam


@pytest.mark.real
def test_box_prompt_finds_the_bottle(bottle_dir: Path, real_home: Path) -> None:
    from segment_anything import SamPredictor

    path = find("mobile-sam")
    if path is None:
        pytest.skip("MobileSAM is not here; run: toolkit weights fetch mobile-sam")
    image = np.asarray(Image.open(bottle_dir / "train/good/000.png").convert("RGB"))
    predictor = SamPredictor(build_mobile_sam(path))
    predictor.set_image(image)
    masks, scores, _ = predictor.predict(box=np.array([60, 60, 840, 840]), multimask_output=False)
    # Seen from above the bottle is a disc of about 390 pixels around the centre.
    rows, columns = np.mgrid[:900, :900]
    disc = (rows - 450) ** 2 + (columns - 450) ** 2 < 390**2
    assert (masks[0] & disc).sum() / (masks[0] | disc).sum() > 0.9
    assert scores[0] > 0.9


@pytest.mark.real
def test_box_prompt_finds_a_contamination(bottle_dir: Path, real_home: Path) -> None:
    from segment_anything import SamPredictor

    path = find("mobile-sam")
    if path is None:
        pytest.skip("MobileSAM is not here; run: toolkit weights fetch mobile-sam")
    image = np.asarray(Image.open(bottle_dir / "test/contamination/000.png").convert("RGB"))
    truth = np.asarray(Image.open(bottle_dir / "ground_truth/contamination/000_mask.png")) > 0
    rows, columns = np.nonzero(truth)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    predictor = SamPredictor(build_mobile_sam(path))
    predictor.set_image(image)
    masks, _, _ = predictor.predict(box=box, multimask_output=False)
    # Zero-shot; measured 0.70. Random weights give a mask of the whole image or of nothing.
    assert (masks[0] & truth).sum() / (masks[0] | truth).sum() > 0.6
