"""Compare converters on difficult masks; write the table in docs/experiments/convert.md.

    python benchmarks/edge_cases.py [--datumaro-python VENV/bin/python]
        [--write docs/experiments/convert.md]

Needs supervision (extra `test`). A cell is `exact` where the tool gives every region with its tight
half-open box (and keeps the hole, where there is one), else what it gives.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toolkit.data.layouts import load_dataset
from toolkit.formats.convert import convert
from toolkit.formats.readers import open_converted

HERE = Path(__file__).resolve().parent
START, END = "<!-- edge cases: start -->", "<!-- edge cases: end -->"
WIDTH, HEIGHT = 120, 80

Mask = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """What a tool found: boxes, and where it gives polygons, what they cover."""

    boxes: list[Box]
    covered: Mask | None = None


@dataclass(frozen=True)
class Case:
    """A mask, how it is stored, and the boxes of its regions."""

    title: str
    draw: Callable[[Mask], None]
    boxes: tuple[Box, ...]
    suffix: str = ".png"
    store: Callable[[Mask], Image.Image] = Image.fromarray

    def truth(self) -> Mask:
        """Return the mask, 0 and 255."""
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.draw(mask)
        return mask


def _blob(mask: Mask) -> None:
    mask[20:40, 30:80] = 255


def _line(mask: Mask) -> None:
    mask[30, 10:90] = 255


def _speck(mask: Mask) -> None:
    mask[30, 40] = 255


def _ring(mask: Mask) -> None:
    mask[10:60, 20:80] = 255
    mask[25:45, 35:65] = 0


def _island(mask: Mask) -> None:
    _ring(mask)
    mask[30:40, 45:55] = 255


def _touching(mask: Mask) -> None:
    mask[10:20, 10:20] = mask[20:30, 20:30] = 255


def _palette(mask: Mask) -> Image.Image:
    image = Image.fromarray(mask // 255).convert("P")
    image.putdata((mask // 255).ravel().tolist())
    image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    return image


def _rgba(mask: Mask) -> Image.Image:
    return Image.fromarray(np.dstack([mask, mask, mask, np.full_like(mask, 255)]))


BLOB: tuple[Box, ...] = ((30, 20, 80, 40),)
CASES = (
    Case("region 50 px wide, values 0/255", _blob, BLOB),
    Case("values 0/1", _blob, BLOB, store=lambda m: Image.fromarray(m // 255)),
    Case("line 1 px wide", _line, ((10, 30, 90, 31),)),
    Case("speck of 1 px", _speck, ((40, 30, 41, 31),)),
    Case("region with a hole", _ring, ((20, 10, 80, 60),)),
    Case("island in the hole", _island, ((20, 10, 80, 60), (45, 30, 55, 40))),
    Case("squares that touch at a corner", _touching, ((10, 10, 30, 30),)),
    Case("16-bit, value 1", _blob, BLOB, store=lambda m: Image.fromarray((m // 255).astype("u2"))),
    Case("palette, index 1", _blob, BLOB, store=_palette),
    Case("RGBA, opaque", _blob, BLOB, store=_rgba),
    Case("1-bit", _blob, BLOB, store=lambda m: Image.fromarray(m > 0)),
    Case("TIFF", _blob, BLOB, suffix=".tif"),
    Case("JPEG", _blob, BLOB, suffix=".jpg"),
)


def lay_out(case: Case, root: Path) -> Path:
    """Write the case as an MVTec folder with one defect image; return the mask file."""
    for folder in ("train/good", "test/defect", "ground_truth/defect"):
        (root / folder).mkdir(parents=True)
    picture = Image.new("RGB", (WIDTH, HEIGHT), "gray")
    for image in ("train/good/000.png", "test/defect/000.png"):
        picture.save(root / image)
    path = root / f"ground_truth/defect/000_mask{case.suffix}"
    case.store(case.truth()).save(path, **({"quality": 75} if case.suffix == ".jpg" else {}))
    return path


def ours(root: Path, mask: Path, out: Path) -> Found:
    """Boxes of `yolo`, cover of `yolo-seg`."""
    boxes: list[Box] = []
    covered = np.zeros((HEIGHT, WIDTH), np.uint8)
    for to in ("yolo", "yolo-seg"):
        convert(load_dataset(root), to=to, out=out / to)
        for image in open_converted(out / to):
            for shape in image.shapes:
                if to == "yolo":
                    boxes.append(shape.box_xyxy)
                else:
                    covered |= shape.mask(image.size_wh)
    return Found(boxes, covered)


def ultralytics(root: Path, mask: Path, out: Path) -> Found:
    """Extent and cover of the polygons of `convert_segment_masks_to_yolo_seg`."""
    from ultralytics.data.converter import convert_segment_masks_to_yolo_seg
    from ultralytics.utils import LOGGER

    LOGGER.setLevel("ERROR")
    out.mkdir()
    convert_segment_masks_to_yolo_seg(str(mask.parent), str(out), 255)
    boxes: list[Box] = []
    covered = np.zeros((HEIGHT, WIDTH), np.uint8)
    for file in out.glob("*.txt"):
        for line in file.read_text().splitlines():
            points = np.array(line.split()[1:], float).reshape(-1, 2) * (WIDTH, HEIGHT)
            boxes.append((*points.min(axis=0), *points.max(axis=0)))
            cv2.fillPoly(covered, [np.round(points).astype(np.int32)], 1)
    return Found(boxes, covered)


def supervision(root: Path, mask: Path, out: Path) -> Found:
    """Boxes and cover of `mask_to_polygons`, on what OpenCV reads as grey."""
    from supervision.detection.utils.converters import mask_to_polygons, polygon_to_xyxy

    grey = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    boxes: list[Box] = []
    covered = np.zeros((HEIGHT, WIDTH), np.uint8)
    for polygon in mask_to_polygons(grey > 0):
        boxes.append(tuple(float(v) for v in polygon_to_xyxy(polygon)))
        cv2.fillPoly(covered, [polygon.astype(np.int32)], 1)
    return Found(boxes, covered)


def datumaro(python: str) -> Callable[[Path, Path, Path], Found]:
    """Boxes of the format `mvtec_detection`; its own environment has it."""

    def run(root: Path, mask: Path, out: Path) -> Found:
        command = [python, str(HERE / "datumaro_side.py"), str(root), str(out), "boxes"]
        told = subprocess.run(command, capture_output=True, text=True)
        if told.returncode:
            print(told.stderr.splitlines()[-1], file=sys.stderr)
            return Found([])
        items = json.loads(told.stdout.splitlines()[-1])
        found = [box for name, boxes in items.items() if "defect" in name for box in boxes]
        return Found([(x, y, x + width, y + height) for x, y, width, height in found])

    return run


def verdict(case: Case, found: Found) -> str:
    """Say in a few words how the result differs from the truth."""
    expected, boxes = sorted(case.boxes), sorted(found.boxes)
    if len(boxes) != len(expected):
        plural = "s" if len(expected) > 1 else ""
        return f"{len(boxes)} rows for {len(expected)} region{plural}" if boxes else "nothing"
    if not np.allclose(boxes, expected, atol=0.01):
        worst = max(zip(boxes, expected, strict=True), key=lambda p: np.abs(np.subtract(*p)).max())
        sizes = [f"{box[2] - box[0]:g}×{box[3] - box[1]:g}" for box in worst]
        return f"box {sizes[0]} for {sizes[1]}"
    if found.covered is not None and case.suffix != ".jpg":
        wrong = int(((found.covered > 0) != (case.truth() > 0)).sum())
        if wrong:
            return f"{wrong} px of the area wrong"
    return "exact"


def table(python: str | None) -> str:
    """Run all tools on all cases."""
    tools: dict[str, Callable[[Path, Path, Path], Found]] = {
        "this project": ours,
        "Ultralytics": ultralytics,
        "supervision": supervision,
    }
    if python:
        tools["Datumaro"] = datumaro(python)
    rows = ["| mask | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(CASES):
            root = Path(name) / str(number)
            mask = lay_out(case, root / "data")
            cells = [
                verdict(case, run(root / "data", mask, root / tool.replace(" ", "-")))
                for tool, run in tools.items()
            ]
            rows.append(f"| {case.title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Print the table; with --write put it into the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datumaro-python")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text = table(options.datumaro_python)
    print(text)
    if options.write:
        document = options.write.read_text(encoding="utf-8")
        if START not in document or END not in document:
            sys.exit(f"{options.write}: the lines {START} and {END} are missing")
        before, after = document.split(START)[0], document.split(END)[1]
        options.write.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
