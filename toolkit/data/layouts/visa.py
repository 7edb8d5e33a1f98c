"""The layout of VisA: `Data/Images/{Normal,Anomaly}`, `Data/Masks/Anomaly`, `image_anno.csv`.

`image_anno.csv` names the defect types of each image; more than one make the label `combined`.
Where it is missing, the label is `anomaly`. The parts are those of `split_csv/1cls.csv` beside the
category, VisA's own one-class split; without it all normal images train and all others test.
"""

from __future__ import annotations

import csv
from pathlib import Path

from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.tree import MaskTree, image_files
from toolkit.data.types import GOOD, Dataset, Sample
from toolkit.errors import DataError

NAME = "visa"
_NORMAL, _ANOMALY = "Normal", "Anomaly"


def recognises(root: Path) -> bool:
    """Whether the folder holds `Data/Images`."""
    return (root / "Data" / "Images").is_dir()


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks."""
    return [root / "Data" / "Masks"]


def read(root: Path) -> Dataset:
    """Read one category.

    Raises:
        DataError: the folder holds no image, or a table is damaged.
    """
    images = root / "Data" / "Images"
    masks = MaskTree(root / "Data" / "Masks" / _ANOMALY)
    types = _column(root / "image_anno.csv", "label")
    parts = _column(root.resolve().parent / "split_csv" / "1cls.csv", "split")
    name = root.resolve().name
    samples = []
    for image in image_files(images / _NORMAL):
        relative = image.relative_to(root).as_posix()
        part = parts.get(f"{name}/{relative}", "train")
        samples.append(Sample(id=relative, image=image, label=GOOD, part=part))
    for image in image_files(images / _ANOMALY):
        relative = image.relative_to(root).as_posix()
        samples.append(
            Sample(
                id=relative,
                image=image,
                label=_label(types.get(f"{name}/{relative}", "anomaly")),
                masks=masks.of(image.relative_to(images / _ANOMALY)),
                part=parts.get(f"{name}/{relative}", "test"),
            )
        )
    return dataset_of(root, samples, layout=NAME, expected="Data/Images/")


def _label(types: str) -> str:
    names = [name.strip() for name in types.split(",") if name.strip()]
    return names[0] if len(names) == 1 else "combined"


def _column(table: Path, column: str) -> dict[str, str]:
    """Return a column of a table by its column `image`; empty if there is no table."""
    if not table.is_file():
        return {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return {row["image"]: row[column] for row in csv.DictReader(file)}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: no table with the columns image and {column}") from error
