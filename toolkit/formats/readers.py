"""Read a converted data set: the labels of each image, in pixels."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from toolkit.data.decoding import max_pixels
from toolkit.data.images import image_size, is_image_file
from toolkit.data.raster import Rle, decode_rle, fill
from toolkit.errors import DataError, printable
from toolkit.formats.pipeline import PARTS
from toolkit.formats.sam import SamPairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DAMAGE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError,
    yaml.YAMLError,
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One label of a file; it has a box, polygons or run lengths.

    Attributes:
        class_index: from 0.
        box_xyxy: half-open box in pixels, not rounded.
        polygons_xy: rings, each (N, 2) in pixels.
        rle: exact mask.
        positive_xy: point prompts inside, (K, 2).
        negative_xy: point prompts around, (K, 2).
    """

    class_index: int
    box_xyxy: tuple[float, float, float, float] | None = None
    polygons_xy: tuple[NDArray[np.float64], ...] = ()
    rle: Rle | None = None
    positive_xy: tuple[tuple[int, int], ...] = ()
    negative_xy: tuple[tuple[int, int], ...] = ()

    def mask(self, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
        """Rasterise the label: the run lengths, else the polygons, else the whole box."""
        if self.rle is not None:
            try:
                return decode_rle(self.rle)
            except _DAMAGE as error:
                raise DataError(f"damaged run lengths ({error}); convert again") from error
        mask = np.zeros((size_wh[1], size_wh[0]), dtype=np.bool_)
        for polygon in self.polygons_xy:
            mask |= fill(polygon, size_wh)
        if self.box_xyxy is not None and not self.polygons_xy:
            x0, y0, x1, y1 = (round(v) for v in self.box_xyxy)
            mask[y0:y1, x0:x1] = True
        return mask


@dataclass(frozen=True)
class LabelledImage:
    """One image of a converted data set and its labels."""

    path: Path
    part: str
    stem: str
    size_wh: tuple[int, int]
    shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A converted data set on disk.

    Attributes:
        folder: the data set's folder.
        kind: `yolo` (boxes or polygons), `coco`, `sam` or `imagefolder`.
        classes: names in the order of their indices.
    """

    folder: Path
    kind: str
    classes: tuple[str, ...]
    _data: dict[str, Any] = field(repr=False)

    def __iter__(self) -> Iterator[LabelledImage]:
        """Yield every image with its labels.

        Raises:
            DataError: a label file is damaged.
        """
        readers = {"yolo": _yolo, "coco": _coco, "sam": _sam, "imagefolder": _imagefolder}
        try:
            for image in readers[self.kind](self):
                _check(image, len(self.classes))
                yield image
        except _DAMAGE as error:
            raise _damaged(self.folder, error) from error


def open_converted(folder: Path | str) -> Converted:
    """Open a converted data set; its format is recognised.

    Raises:
        DataError: the folder is not a converted data set, or its main file is damaged.
    """
    folder = Path(folder)
    try:
        return _open(folder)
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be read ({error.strerror})") from error
    except _DAMAGE as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> DataError:
    reason = printable(str(error) or type(error).__name__)[:200]
    return DataError(f"{printable(folder)}: damaged converted data set ({reason}); convert again")


def _check(image: LabelledImage, classes: int) -> None:
    """Check what a damaged file may hold.

    Raises:
        ValueError: a size, a class or a coordinate is impossible.
    """
    width, height = image.size_wh
    if not (type(width) is type(height) is int and 0 < width * height <= max_pixels()):
        raise ValueError(f"{image.path.name}: a size of {width!s:.20}x{height!s:.20} pixels")
    for shape in image.shapes:
        if not 0 <= shape.class_index < classes:
            raise ValueError(f"{image.path.name}: class {shape.class_index} has no name")
        for numbers in (*shape.polygons_xy, shape.box_xyxy or ()):
            if not (np.abs(numbers) <= 2 * max(width, height)).all():  # false for NaN, too
                raise ValueError(f"{image.path.name}: a label far outside of the image")
        if shape.rle is not None and list(shape.rle["size"]) != [height, width]:
            raise ValueError(f"{image.path.name}: run lengths of another size")


def _open(folder: Path) -> Converted:
    if (folder / "data.yaml").is_file():
        data = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
        names = data["names"]
        names = names if isinstance(names, list) else [names[i] for i in sorted(names)]
        return Converted(folder, "yolo", tuple(map(str, names)), data)
    files = sorted((folder / "annotations").glob("instances_*.json"))
    if files:
        parts = {f.stem.removeprefix("instances_"): json.loads(f.read_text("utf-8")) for f in files}
        categories = next(iter(parts.values()))["categories"]
        return Converted(folder, "coco", tuple(c["name"] for c in categories), parts)
    if any((folder / f"{part}.jsonl").is_file() for part in PARTS):
        pairs = {part: list(SamPairs(folder, part=part)) for part in PARTS}
        names = sorted({p.class_name for part in pairs.values() for p in part})
        return Converted(folder, "sam", tuple(names), pairs)
    if any((folder / part).is_dir() for part in PARTS):
        names = sorted({f.name for part in PARTS for f in (folder / part).glob("*") if f.is_dir()})
        return Converted(folder, "imagefolder", tuple(names), {})
    raise DataError(
        f"{printable(folder)}: not a converted data set; expected data.yaml or annotations/"
    )


def _yolo(data: Converted) -> Iterator[LabelledImage]:
    for part in PARTS:
        place = data._data.get(part)
        # Without a validation part, `val` names the folder of another part: do not read it twice.
        if not isinstance(place, str) or Path(place).name != part:
            continue
        images = data.folder / place
        # As trainers do: the last `images` of the path becomes `labels`.
        at = len(images.parts) - 1 - images.parts[::-1].index("images")
        labels = Path(*images.parts[:at], "labels", *images.parts[at + 1 :])
        for path in sorted(f for f in images.rglob("*") if is_image_file(f)):
            size = image_size(path)[:2]
            text = labels / path.relative_to(images).with_suffix(".txt")
            yield LabelledImage(path, part, path.stem, size, _rows(text, size))


def _rows(path: Path, size_wh: tuple[int, int]) -> tuple[Shape, ...]:
    if not path.is_file():
        return ()
    shapes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            index, *values = line.split()
            numbers = np.array(values, dtype=np.float64).reshape(-1, 2) * size_wh
            shapes.append(_shape(int(index), numbers))
        except ValueError as error:
            raise DataError(
                f"{printable(path)}: line {number} is not a label row; convert again"
            ) from error
    return tuple(shapes)


def _shape(index: int, numbers: NDArray[np.float64]) -> Shape:
    if len(numbers) == 2:
        centre, side = numbers
        low, high = centre - side / 2, centre + side / 2
        return Shape(index, box_xyxy=(low[0], low[1], high[0], high[1]))
    if len(numbers) < 3:
        raise ValueError("too few numbers")
    return Shape(index, polygons_xy=(numbers,))


def _coco(data: Converted) -> Iterator[LabelledImage]:
    for part, record in data._data.items():
        index = {c["id"]: i for i, c in enumerate(record["categories"])}
        shapes = defaultdict(list)
        for one in record["annotations"]:
            x, y, width, height = one["bbox"]
            segmentation = one["segmentation"]
            shapes[one["image_id"]].append(
                Shape(
                    index[one["category_id"]],
                    box_xyxy=(x, y, x + width, y + height),
                    polygons_xy=tuple(np.array(p, dtype=float).reshape(-1, 2) for p in segmentation)
                    if isinstance(segmentation, list)
                    else (),
                    rle=Rle(size=segmentation["size"], counts=segmentation["counts"])
                    if isinstance(segmentation, dict)
                    else None,
                )
            )
        for image in record["images"]:
            path = data.folder / "images" / part / image["file_name"]
            size = (image["width"], image["height"])
            yield LabelledImage(path, part, path.stem, size, tuple(shapes[image["id"]]))


def _sam(data: Converted) -> Iterator[LabelledImage]:
    for part, pairs in data._data.items():
        by_image: dict[Path, list[Shape]] = defaultdict(list)
        sizes = {}
        for pair in pairs:
            sizes[pair.image_path] = pair.size_wh
            by_image[pair.image_path].append(
                Shape(
                    data.classes.index(pair.class_name),
                    box_xyxy=pair.jittered_box_xyxy,
                    rle=pair.rle,
                    positive_xy=tuple((x, y) for x, y in pair.positive_xy),
                    negative_xy=tuple((x, y) for x, y in pair.negative_xy),
                )
            )
        for path, shapes in by_image.items():
            yield LabelledImage(path, part, path.stem, sizes[path], tuple(shapes))


def _imagefolder(data: Converted) -> Iterator[LabelledImage]:
    for part in PARTS:
        for index, name in enumerate(data.classes):
            for path in sorted((data.folder / part / name).glob("*")):
                if is_image_file(path):
                    size = image_size(path)[:2]
                    yield LabelledImage(path, part, path.stem, size, (Shape(index),))
