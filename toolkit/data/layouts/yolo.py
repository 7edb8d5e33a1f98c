"""YOLO's layout: `images/` and `labels/` of equal names, and perhaps a `data.yaml`.

Both orders are read: `images/train` with `labels/train`, and `train/images` with `train/labels`. A
row of a label file is `class cx cy w h` (a box) or `class x y x y …` (an outline), in fractions of
the image's sides. An image without a label file, or with an empty one, is good. The label of an
image is the defect type of its boxes; several types make it `combined`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.config import read_yaml
from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.names import PARTS, VAL, with_parts
from toolkit.data.layouts.tree import image_files, subfolders
from toolkit.data.types import COMBINED, GOOD, Dataset, Mark, Sample
from toolkit.errors import ConfigError, DataError, printable

NAME = "yolo"
_NAMES_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_SLACK = 1e-3  # that rounding may carry a box beyond the image, as a share of its side


def recognises(root: Path) -> bool:
    """Whether the folder holds a `data.yaml` with class names, or label files."""
    return _data_file(root) is not None or any(_label_folders(root))


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks: none."""
    return []


def read(root: Path) -> Dataset:
    """Read the folder.

    Raises:
        DataError: the folder holds no image, or a label file is damaged.
    """
    data = _read_data(root)
    names = _class_names(root, data)
    samples: dict[Path, Sample] = {}
    unlabelled = 0
    for part, folder in _image_folders(root, data):
        for image in image_files(folder):
            if image in samples:  # `val` may name the folder of another part
                continue
            labels = _label_file(image)
            marks = tuple(_marks(labels, names))
            unlabelled += not labels.is_file()
            samples[image] = Sample(
                id=image.relative_to(root).as_posix()
                if image.is_relative_to(root)
                else image.as_posix().lstrip("/"),
                image=image,
                label=label_of_marks(marks),
                marks=marks,
                part=part,
            )
    found = with_parts(samples.values())
    dataset = dataset_of(root, found, layout=NAME, expected="images/")
    notes = [f"{unlabelled} images have no label file and are taken for good"] * bool(unlabelled)
    return replace(dataset, notes=tuple(notes))


def label_of_marks(marks: tuple[Mark, ...]) -> str:
    """Return the label of an image with these marks."""
    types = {mark.label for mark in marks}
    return types.pop() if len(types) == 1 else COMBINED if types else GOOD


def box_mark(
    label: str, box: tuple[float, float, float, float], *, where: str, **outline: Any
) -> Mark:
    """Return a mark whose box is cut at the image's border.

    Raises:
        DataError: the box is empty or lies outside of the image, or an outline is far outside.
    """
    x0, y0, x1, y1 = box
    numbers = (number for ring in outline.get("polygons", ()) for number in ring)
    if not all(-1 <= number <= 2 for number in numbers):  # false for NaN, too
        raise DataError(f"{where}: an outline far outside of the image; correct it")
    if not all(map(math.isfinite, box)) or x1 <= x0 or y1 <= y0:
        raise DataError(f"{where}: a box without width or height; correct or remove it")
    if min(box) < -_SLACK or max(box) > 1 + _SLACK:
        raise DataError(f"{where}: a box that leaves the image; correct it")
    return Mark(label, (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)), **outline)


def _data_file(root: Path) -> Path | None:
    """Return the data file: `data.yaml`, or another one that names images."""
    for path in sorted(root.glob("*.y*ml"), key=lambda p: (p.stem != "data", p.name)):
        try:
            content = read_yaml(path)
        except ConfigError:
            if path.stem == "data":
                raise
            continue
        if "names" in content and {"train", "val", "test", "path"} & content.keys():
            return path
    return None


def _read_data(root: Path) -> dict[str, Any]:
    path = _data_file(root)
    return {} if path is None else read_yaml(path)


def _label_folders(root: Path) -> Iterator[Path]:
    places = [root, *(f for f in subfolders(root) if f.name.lower() in PARTS)]
    for place in places:
        if (place / "images").is_dir() and any((place / "labels").rglob("*.txt")):
            yield place


def _image_folders(root: Path, data: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield the part and the folder of images; folders of several parts come part by part."""
    found = False
    for key in ("train", VAL, "test"):
        given = data.get(key)
        for one in given if isinstance(given, list) else [given]:
            folder = _existing(root, data, one) if isinstance(one, str) else None
            if folder is not None:
                found = True
                yield key, folder
    if found:
        return
    for place in _label_folders(root):
        if place != root:
            yield PARTS[place.name.lower()], place / "images"
            continue
        parts = [f for f in subfolders(root / "images") if f.name.lower() in PARTS]
        for folder in parts:
            yield PARTS[folder.name.lower()], folder
        yield "", root / "images"


def _existing(root: Path, data: dict[str, Any], name: str) -> Path | None:
    """Find a folder that a data file names: relative to it, or to where it once lay."""
    path = Path(str(data.get("path") or ""))
    plain = Path(*[part for part in Path(name).parts if part not in ("..", ".")])
    for folder in (root / name, root / path / name, root / plain):
        if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):
            return root / folder.resolve().relative_to(root.resolve())
    return None


def _class_names(root: Path, data: dict[str, Any]) -> dict[int, str]:
    names = data.get("names")
    for file in _NAMES_FILES if names is None else ():
        if (root / file).is_file():
            text = (root / file).read_text(encoding="utf-8", errors="replace")
            names = [line.strip() for line in text.splitlines() if line.strip()]
            break
    if isinstance(names, list):
        return {index: str(name) for index, name in enumerate(names)}
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        return {int(key): str(name) for key, name in names.items()}
    if names is not None:
        raise DataError(f"{root}: names in the data file are neither a list nor `0: name` lines")
    return {}


def _label_file(image: Path) -> Path:
    """Return the label file of an image: the last `images` of its path becomes `labels`."""
    parts = image.parts
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        image = Path(*parts[:at], "labels", *parts[at + 1 :])
    return image.with_suffix(".txt")


def _marks(path: Path, names: dict[int, str]) -> Iterator[Mark]:
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{printable(path)}: cannot be read; replace the label file") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{printable(path)}: line {number}"
        word, *rest = line.split()
        try:
            index, values = int(word), [float(text) for text in rest]
        except ValueError as error:
            raise DataError(f"{where}: not a row of numbers; correct it") from error
        if names and index not in names:
            raise DataError(f"{where}: class {index} has no name in the data file; add it")
        make = partial(box_mark, names.get(index, f"class {index}"), where=where)
        if len(values) == 4:
            x, y, width, height = values
            yield make((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        elif len(values) >= 6 and len(values) % 2 == 0:
            xs, ys = values[::2], values[1::2]
            yield make((min(xs), min(ys), max(xs), max(ys)), polygons=(tuple(values),))
        else:
            raise DataError(
                f"{where}: {len(rest)} numbers behind the class; expected 4 (a box) or an even "
                "number from 6 on (an outline)"
            )
