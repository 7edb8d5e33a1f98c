"""Target `sam`: prompt/mask pairs, one line of JSON per region.

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

from toolkit.data.images import read_rgb
from toolkit.errors import DataError
from toolkit.formats.job import Job, place_image
from toolkit.formats.prompts import Points, jittered_box, negative_points, positive_points
from toolkit.formats.rle import Rle, decode, encode_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Box
    from toolkit.formats.extract import Item
    from toolkit.formats.selection import Entry


class SamWriter:
    """Writes images and one JSON Lines file per part."""

    needs_masks = True
    takes_good = False

    def __init__(self, folder: Path, job: Job) -> None:
        self.job = job
        self._folder = folder
        self._lines: dict[str, list[str]] = {part: [] for part in job.parts}
        for part in job.parts:
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
        # Seeded per image: the same points whatever else is converted, by however many workers.
        seed = hashlib.sha256(f"{options.seed}:{entry.sample.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        lines = []
        for number, one in enumerate(item.labelled):
            region = one.region
            record = {
                "image": path.relative_to(self._folder).as_posix(),
                "source": entry.sample.id,
                "region": number,
                "class": self.job.classes[one.class_index],
                "size_wh": [width, height],
                "area": region.area,
                "box_xyxy": list(region.box_xyxy),
                "jittered_box_xyxy": jittered_box(
                    region.box_xyxy, item.size_wh, share=options.box_jitter, rng=rng
                ),
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


@dataclass(frozen=True)
class SamPair:
    """One region with its prompts.

    Attributes:
        image_path: the image.
        source: id of the sample it was made from.
        class_name: class of the region.
        size_wh: width and height of the image.
        box_xyxy: half-open tight box in pixels.
        jittered_box_xyxy: the same, moved as by a careless hand.
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
        return decode(self.rle)

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
                self._pairs = [self._pair(line) for line in file]
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); make it with toolkit convert --to sam"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); convert anew") from error

    def _pair(self, line: str) -> SamPair:
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
