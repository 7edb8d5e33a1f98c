"""COCO's layout: images, and JSON files of their annotations.

The files are `annotations/*.json`, `*.json` beside the images, or one in each part's folder; the
part is named by the file or its folder (`instances_train.json`, `train/_annotations.coco.json`). An
image without annotations is good; the defect type is the category.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.data.layouts.mvtec import dataset_of
from toolkit.data.layouts.names import PARTS, with_parts
from toolkit.data.layouts.tree import subfolders
from toolkit.data.layouts.yolo import box_mark, label_of_marks
from toolkit.data.types import Dataset, Mark, Sample
from toolkit.errors import DataError, printable
from toolkit.files import read_json

NAME = "coco"
_KEYS = ('"images"', '"annotations"', '"categories"')
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def recognises(root: Path) -> bool:
    """Whether the folder holds a JSON file with images, annotations and categories."""
    return bool(_files(root))


def mask_folders(root: Path) -> list[Path]:
    """Return the folders that hold masks: none."""
    return []


def read(root: Path) -> Dataset:
    """Read the folder.

    Raises:
        DataError: no image is listed, an image is missing, or a file is damaged.
    """
    samples: dict[Path, Sample] = {}
    files = _files(root)
    for file in files:
        try:
            for sample in _samples(root, file):
                samples.setdefault(sample.image, sample)
        except _DAMAGE as error:
            reason = printable(f"{type(error).__name__}: {error}")[:120]
            raise DataError(f"{printable(file)}: damaged COCO file ({reason})") from error
    names = ", ".join(printable(file.relative_to(root)) for file in files)
    dataset = dataset_of(root, with_parts(samples.values()), layout=NAME, expected=names)
    return replace(dataset, notes=(f"annotations of {names}; what they do not list is not read",))


def _files(root: Path) -> list[Path]:
    places = [root, *(f for f in subfolders(root) if f.name == "annotations" or _part(f.name))]
    return [
        file
        for place in places
        for file in sorted(place.glob("*.json"))
        if file.is_file() and not file.name.startswith(".") and _is_coco(file)
    ]


def _is_coco(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return all(key in text for key in _KEYS)


def _part(name: str) -> str:
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    plain = (word.rstrip("0123456789") for word in words)
    return next((PARTS[word] for word in plain if word in PARTS), "")


def _samples(root: Path, file: Path) -> Iterator[Sample]:
    record = read_json(file)
    names = {one["id"]: str(one["name"]) for one in record["categories"]}
    by_image = defaultdict(list)
    for one in record["annotations"]:
        by_image[one["image_id"]].append(one)
    part = _part(file.stem) or _part(file.parent.name)
    for one in record["images"]:
        image = _image(root, file, str(one["file_name"]))
        width, height = float(one["width"]), float(one["height"])
        where = f"{printable(file)}: {printable(one['file_name'])}"
        marks = tuple(_mark(a, names, width, height, where) for a in by_image[one["id"]])
        yield Sample(
            id=image.relative_to(root).as_posix(),
            image=image,
            label=label_of_marks(marks),
            marks=marks,
            part=part,
        )


def _image(root: Path, file: Path, name: str) -> Path:
    """Find an image: beside its file, below `images/`, or below the folder of its part."""
    stem = file.stem.split("_")[-1]
    places = (file.parent, root / "images" / stem, root / "images", root / stem, root)
    for place in places:
        image = place / name
        # The name is not to lead out of the data set.
        if image.is_file() and ".." not in Path(name).parts and not Path(name).is_absolute():
            return image
    raise DataError(
        f"{printable(file)}: its image {printable(name)} is not there; expected it beside the "
        "file, in images/ or in the folder of its part"
    )


def _mark(
    one: Mapping[str, Any], names: Mapping[int, str], width: float, height: float, where: str
) -> Mark:
    if one["category_id"] not in names:
        raise DataError(f"{where}: category {one['category_id']!s:.20} has no name; add it")
    x, y, w, h = (float(value) for value in one["bbox"])
    box = (x / width, y / height, (x + w) / width, (y + h) / height)
    given = one.get("segmentation")
    outline: dict[str, Any] = {}
    if isinstance(given, list) and given:
        outline["polygons"] = tuple(
            tuple(float(v) / (height if i % 2 else width) for i, v in enumerate(ring))
            for ring in given
        )
        if any(len(ring) < 6 or len(ring) % 2 for ring in given):
            raise DataError(f"{where}: an outline of fewer than three points; correct it")
    elif isinstance(given, dict):
        rows, columns = given["size"]
        outline["rle"] = (int(rows), int(columns), _counts(given["counts"]))
    return box_mark(names[one["category_id"]], box, where=where, **outline)


def _counts(counts: str | list[int]) -> str:
    """Return run lengths in COCO's text encoding."""
    if isinstance(counts, str):
        return counts
    text = []
    for index, run in enumerate(counts):
        value = run - counts[index - 2] if index > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            is_last = value == (-1 if bits & 16 else 0)
            text.append(chr((bits if is_last else bits | 32) + 48))
            if is_last:
                break
    return "".join(text)
