"""Format `sam`: prompt/mask pairs, one line of JSON per region.

    train.jsonl  val.jsonl  test.jsonl  images/{train,val,test}/<stem>.png

Read them back with `SamPairs(folder, part="train")`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.boxes import jitter_box
from toolkit.data.images import read_rgb
from toolkit.data.raster import Rle, decode_rle
from toolkit.errors import DataError, printable
from toolkit.formats.coco import encode_region
from toolkit.formats.pipeline import PARTS, Job, place_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Box, Region
    from toolkit.formats.extract import Item
    from toolkit.formats.pipeline import Entry

Points = list[list[int]]

_AROUND_SHARE, _AROUND_MIN = 0.25, 8


class SamWriter:
    """Writes images and one JSON Lines file per part."""

    needs_masks = True
    needs_outlines = True
    takes_good = False

    def __init__(self, folder: Path, job: Job) -> None:
        self.job = job
        self._folder = folder
        self._lines: dict[str, list[str]] = {part: [] for part in PARTS}
        for part in PARTS:
            (folder / "images" / part).mkdir(parents=True, exist_ok=True)

    def encode(self, item: Item) -> list[str]:
        """Write the image; return a line per region."""
        entry, options = item.entry, self.job.options
        path = place_image(item, self._folder / "images" / entry.part, self.job)
        width, height = item.size_wh
        defect = np.zeros((height, width), dtype=np.bool_)
        for one in item.labelled:
            x0, y0, x1, y1 = one.region.box_xyxy
            defect[y0:y1, x0:x1] |= one.region.crop
        # Seeded per image: the same prompts whatever else is converted, with any number of workers.
        seed = hashlib.sha256(f"{options.seed}:{entry.sample.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        lines = []
        for number, one in enumerate(item.labelled):
            region = one.region
            jittered = jitter_box(region.box_xyxy, item.size_wh, rng, share=options.box_jitter)
            record = {
                "image": path.relative_to(self._folder).as_posix(),
                "source": entry.sample.id,
                "region": number,
                "class": self.job.classes[one.class_index],
                "size_wh": [width, height],
                "area": region.area,
                "box_xyxy": list(region.box_xyxy),
                "jittered_box_xyxy": [round(v, 2) for v in jittered],
                "positive_xy": positive_points(region, options.points, rng),
                "negative_xy": negative_points(region, defect, options.points, rng),
                "mask": encode_region(region, item.size_wh),
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        return lines

    def collect(self, entry: Entry, payload: list[str]) -> None:
        """Keep the lines."""
        self._lines[entry.part].extend(payload)

    def finish(self) -> None:
        """Write the JSON Lines files."""
        for part, lines in self._lines.items():
            with (self._folder / f"{part}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(lines)


def positive_points(region: Region, count: int, rng: np.random.Generator) -> Points:
    """Draw pixels of the region: the one farthest from its border, then uniformly distributed ones.

    Returns:
        `count` pixels as [x, y], fewer if the region has fewer; each at most once.
    """
    import cv2

    padded = np.pad(region.crop, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # OpenCV's distances differ in the last digits from call to call; their squares are integers.
    depth = np.rint(depth.astype(np.float64) ** 2)
    inside = np.flatnonzero(region.crop)
    middle = int(depth.argmax())
    others = inside[inside != middle]
    drawn = rng.choice(others, size=min(count - 1, len(others)), replace=False)
    ys, xs = np.divmod(np.concatenate([[middle], drawn]), region.crop.shape[1])
    x0, y0, _, _ = region.box_xyxy
    return np.column_stack([xs + x0, ys + y0]).astype(int).tolist()  # type: ignore[no-any-return]


def negative_points(
    region: Region, defect: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Points:
    """Draw pixels around the region that belong to no region.

    They lie in the box enlarged by a quarter of its sides (at least 8 pixels), or anywhere in the
    image if that box is all defect.

    Args:
        region: the region.
        defect: bool array (H, W), all regions of the image.
        count: number of points.
        rng: source of randomness.

    Returns:
        `count` pixels as [x, y], fewer if there are fewer.
    """
    height, width = defect.shape
    x0, y0, x1, y1 = region.box_xyxy
    across = max(_AROUND_MIN, round((x1 - x0) * _AROUND_SHARE))
    down = max(_AROUND_MIN, round((y1 - y0) * _AROUND_SHARE))
    left, top = max(0, x0 - across), max(0, y0 - down)
    around = defect[top : min(height, y1 + down), left : min(width, x1 + across)]
    free = np.argwhere(~around) + np.array([top, left])
    if not len(free):
        free = np.argwhere(~defect)
    drawn = free[rng.choice(len(free), size=min(count, len(free)), replace=False)]
    return drawn[:, ::-1].tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SamPair:
    """One region with its prompts.

    Attributes:
        image_path: the image.
        source: id of the sample it was made from.
        class_name: class of the region.
        size_wh: width and height of the image.
        box_xyxy: half-open tight box in pixels.
        jittered_box_xyxy: the same with noise, as if drawn by hand.
        positive_xy: pixels inside, the first one farthest from the border.
        negative_xy: pixels around, in no region.
        area: number of pixels.
        rle: the mask as COCO run lengths.
    """

    image_path: Path
    source: str
    class_name: str
    size_wh: tuple[int, int]
    box_xyxy: Box
    jittered_box_xyxy: tuple[float, float, float, float]
    positive_xy: Points
    negative_xy: Points
    area: int
    rle: Rle

    def mask(self) -> NDArray[np.bool_]:
        """Return the region's mask, bool (H, W)."""
        return decode_rle(self.rle)

    def image(self) -> NDArray[np.uint8]:
        """Return the image, uint8 RGB (H, W, 3)."""
        return read_rgb(self.image_path)


class SamPairs:
    """The pairs of one part: a sequence, as a torch `Dataset` is.

    Args:
        folder: output of `convert(…, to="sam")`.
        part: `train`, `val` or `test`.

    Raises:
        DataError: the file is missing or damaged.
    """

    def __init__(self, folder: Path | str, *, part: str = "train") -> None:
        self._folder = Path(folder)
        path = self._folder / f"{part}.jsonl"
        try:
            with path.open(encoding="utf-8") as file:
                self._pairs = [self._parse(line) for line in file]
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); make it with toolkit convert --to sam"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = printable(error)
            raise DataError(f"{path}: damaged ({reason}); convert again") from error

    def _parse(self, line: str) -> SamPair:
        record = json.loads(line)
        return SamPair(
            image_path=self._folder / record["image"],
            source=record["source"],
            class_name=record["class"],
            size_wh=tuple(record["size_wh"]),
            box_xyxy=tuple(record["box_xyxy"]),
            jittered_box_xyxy=tuple(record["jittered_box_xyxy"]),
            positive_xy=record["positive_xy"],
            negative_xy=record["negative_xy"],
            area=record["area"],
            rle=record["mask"],
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> SamPair:
        return self._pairs[index]

    def __iter__(self) -> Iterator[SamPair]:
        return iter(self._pairs)
