from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from toolkit.data.images import read_rgb, read_truth
from toolkit.data.types import Sample
from toolkit.methods.sam.specks import pictures_with_specks
from toolkit.methods.sam.targets import region_targets

SIDE = 500


def _samples(folder: Path, count: int = 2) -> list[Sample]:
    """Dark pictures with one bright defect each, elsewhere."""
    samples = []
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[60:160, 50 + 250 * number : 170 + 250 * number] = 255
        picture = np.full((SIDE, SIDE, 3), 20, np.uint8)
        picture[mask > 0] = 200
        image, truth = folder / f"{number}.png", folder / f"{number}-mask.png"
        cv2.imwrite(str(image), picture)
        cv2.imwrite(str(truth), mask)
        samples.append(Sample(id=str(number), image=image, label="x", masks=(truth,)))
    return samples


def test_specks_are_small_and_lie_beside_the_defects_of_the_picture(tmp_path: Path) -> None:
    samples = _samples(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    made = pictures_with_specks(samples, folder, count=6, rng=np.random.default_rng(0))
    assert len(made) == 6
    for sample in made:
        picture, truth = read_rgb(sample.image), read_truth(sample)
        targets = region_targets([sample])
        assert 1 <= len(targets) <= 2
        for target in targets:
            x0, y0, x1, y1 = target.box_xyxy
            assert 6 <= max(x1 - x0, y1 - y0) <= 0.04 * SIDE + 1
        # The picture's own defect and the speck in it are bright; the mask is the speck alone.
        bright = picture[..., 0] > 120
        assert bright[truth].mean() > 0.7
        own = bright & ~cv2.dilate(truth.astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert own.sum() == 100 * 120


def test_the_same_draw_gives_the_same_pictures(tmp_path: Path) -> None:
    samples = _samples(tmp_path)
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = pictures_with_specks(samples, tmp_path / name, count=2, rng=np.random.default_rng(3))
        contents.append([s.image.read_bytes() for s in made])
    assert contents[0] == contents[1]


def test_where_there_is_no_room_there_is_no_speck(tmp_path: Path) -> None:
    (sample,) = _samples(tmp_path, 1)  # specks would lie where the only defect is
    assert pictures_with_specks([sample], tmp_path, count=3, rng=np.random.default_rng(0)) == []
