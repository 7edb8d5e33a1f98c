"""Folders of every known layout, as their authors lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.data.layouts import load_dataset, unpaired_masks
from toolkit.errors import DataError

# file, then what its sample must be: label, part, masks; None: no sample
TREES: dict[str, dict[str, tuple[str, str, list[str]] | None]] = {
    "mvtec": {
        "train/good/000.png": ("good", "train", []),
        "test/good/000.png": ("good", "test", []),
        # upper-case endings, spaces, other alphabets, several masks
        "test/bent wire/001.PNG": (
            "bent wire",
            "test",
            ["ground_truth/bent wire/001_mask.png", "ground_truth/bent wire/001_mask_1.png"],
        ),
        "test/бой/ö 2.tiff": ("бой", "test", ["ground_truth/бой/ö 2_mask.TIF"]),
        # a nested folder
        "test/бой/day 1/ö 2.png": ("бой", "test", ["ground_truth/бой/day 1/ö 2_mask.png"]),
        "test/bent wire/.hidden.png": None,
        "test/bent wire/notes.txt": None,
    },
    "loco": {
        "train/good/000.png": ("good", "train", []),
        "validation/good/000.png": ("good", "train", []),
        "test/good/000.png": ("good", "test", []),
        "test/logical_anomalies/007.png": (
            "logical_anomalies",
            "test",
            [
                "ground_truth/logical_anomalies/007/000.png",
                "ground_truth/logical_anomalies/007/001.png",
            ],
        ),
    },
    "mvtec-ad-2": {
        "train/good/000_regular.png": ("good", "train", []),
        "validation/good/001_regular.png": ("good", "train", []),
        "test_public/good/000_regular.png": ("good", "test", []),
        "test_public/bad/000_shift_1.png": (
            "bad",
            "test",
            ["test_public/ground_truth/bad/000_shift_1_mask.png"],
        ),
        "test_private/000_regular.png": None,
    },
    "visa": {
        "Data/Images/Normal/0000.JPG": ("good", "test", []),
        "Data/Images/Normal/0001.JPG": ("good", "train", []),
        "Data/Images/Anomaly/000.JPG": ("bent", "test", ["Data/Masks/Anomaly/000.png"]),
        "Data/Images/Anomaly/001.JPG": ("combined", "test", ["Data/Masks/Anomaly/001.png"]),
    },
    "folder": {
        "images/a.png": ("defect", "test", ["masks/a.PNG"]),
        "images/b.png": ("good", "test", []),
        "images/train/dent/a.png": ("dent", "train", ["masks/train/dent/a.png"]),
        "images/val/good/a.png": ("good", "train", []),
    },
}


def lay_out(root: Path, layout: str) -> Path:
    for name, expected in TREES[layout].items():
        for path in [name, *(expected[2] if expected else [])]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
    if layout == "visa":
        (root / "image_anno.csv").write_text(
            "image,label,mask\n"
            f"{root.name}/Data/Images/Normal/0000.JPG,normal,\n"
            f"{root.name}/Data/Images/Anomaly/000.JPG,bent,x\n"
            f'{root.name}/Data/Images/Anomaly/001.JPG,"bent,melt",x\n'
        )
        (root.parent / "split_csv").mkdir()
        (root.parent / "split_csv/1cls.csv").write_text(
            "object,split,image,label,mask\n"
            f"{root.name},test,{root.name}/Data/Images/Normal/0000.JPG,normal,\n"
        )
    return root


@pytest.mark.parametrize("layout", TREES)
@pytest.mark.parametrize("named", [True, False])
def test_read(tmp_path: Path, layout: str, named: bool) -> None:
    root = lay_out(tmp_path / "part", layout)
    dataset = load_dataset(root, layout=layout if named else None)
    assert dataset.layout == layout
    found = {
        s.id: (s.label, s.part, [m.relative_to(root).as_posix() for m in s.masks]) for s in dataset
    }
    assert found == {name: value for name, value in TREES[layout].items() if value}
    assert unpaired_masks(dataset) == []


@pytest.mark.parametrize(
    ("layout", "stray"),
    [
        ("mvtec", "ground_truth/bent wire/777_mask.png"),
        ("loco", "ground_truth/logical_anomalies/777/000.png"),
        ("mvtec-ad-2", "test_public/ground_truth/bad/777_regular_mask.png"),
        ("visa", "Data/Masks/Anomaly/777.png"),
        ("folder", "masks/777.png"),
    ],
)
def test_mask_without_image(tmp_path: Path, layout: str, stray: str) -> None:
    root = lay_out(tmp_path / "part", layout)
    (root / stray).parent.mkdir(parents=True, exist_ok=True)
    (root / stray).touch()
    assert unpaired_masks(load_dataset(root)) == [root / stray]


def test_visa_without_tables(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "part", "visa")
    (root / "image_anno.csv").unlink()
    (tmp_path / "split_csv/1cls.csv").unlink()
    parts = {s.id: (s.label, s.part) for s in load_dataset(root)}
    assert parts["Data/Images/Normal/0000.JPG"] == ("good", "train")
    assert parts["Data/Images/Anomaly/001.JPG"] == ("anomaly", "test")


def test_damaged_table(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "part", "visa")
    (root / "image_anno.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"image_anno\.csv"):
        load_dataset(root)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "part", "mvtec")
    (tmp_path / "linked").symlink_to(root)
    (root / "test/good/loop").symlink_to(root / "test/good")
    assert len(load_dataset(tmp_path / "linked")) == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ([], "no such folder"),
        (["part"], "not a data set of a known layout; expected"),
        (["part/bottle/train/good"], "did you mean"),
        (["part/train/good"], "no images below"),
    ],
)
def test_folders_that_are_none(tmp_path: Path, make: list[str], words: str) -> None:
    for name in make:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match=words):
        load_dataset(tmp_path / "part")


def test_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'mvtec'"):
        load_dataset(tmp_path, layout="mvtek")
