"""Class folders: which are recognised, what is written, what comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.errors import DataError
from toolkit.imbalance.image_folder import (
    find_class_images,
    read_class_images,
    read_resized,
    write_class_images,
    write_contact_sheet,
)


def _save(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 0, 0)).save(path)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/1.png", "good/1.png", "a/2.png"], ("good", "a")),  # good comes first
        (["train/a/1.png", "train/b/1.png", "test/a/9.png"], ("a", "b")),  # only what trains
        (["train/good/1.png", "test/a/1.png"], None),  # MVTec AD: a data set, not class folders
        (["images/a/1.png", "masks/a/1.png", "images/1.png", "masks/1.png"], None),
        (["a/1.png"], None),  # one class is none
        (["a/1.png", "b/notes.txt"], None),
    ],
)
def test_class_folders(tmp_path: Path, files: list[str], names: tuple[str, ...] | None) -> None:
    for name in files:
        if name.endswith("png"):
            _save(tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
    found = find_class_images(tmp_path)
    assert (found.names if found else None) == names
    if found:
        folders = [path.parent.name for path in found.paths]
        assert folders == [found.names[label] for label in found.labels]


def test_images_come_back_as_they_were_written(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    labels = torch.tensor([0, 0, 2, 2, 2])
    write_class_images(tmp_path, images, labels, ("good", "a", "b"))
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        f"synthetic-000{i}.png" for i in (1, 2, 3)
    ]
    again, of = read_class_images(tmp_path, ("good", "a", "b"))
    assert torch.equal(again, images)
    assert torch.equal(of, labels)


def test_a_folder_of_several_sizes_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "a/1.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "a/2.png")
    with pytest.raises(DataError, match="of several sizes"):
        read_class_images(tmp_path, ("a",))


def test_resized(tmp_path: Path) -> None:
    _save(tmp_path / "1.png", 200)
    found = read_resized([tmp_path / "1.png"], 16)
    assert found.shape == (1, 3, 16, 16)
    assert found.dtype == torch.uint8
    assert found[0, 0].unique().tolist() == [200]
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2\.png"):
        read_resized([tmp_path / "2.png"], 16)


def test_the_contact_sheet_has_a_row_of_each_kind_and_class(tmp_path: Path) -> None:
    real = (torch.full((3, 1, 16, 16), 255, dtype=torch.uint8), torch.tensor([0, 1, 1]))
    made = (torch.zeros(20, 1, 16, 16, dtype=torch.uint8), torch.ones(20, dtype=torch.int64))
    write_contact_sheet(tmp_path / "sheet.png", real, made, ("good", "a"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] == 3 * 66  # good has no synthetic images
    tiles = sheet[:, 130:]
    assert (tiles[1:65, :64] == 255).all()
    assert (tiles[2 * 66 + 1 : 2 * 66 + 65, :64] == 0).all()
