"""Draw a contact sheet: labels read back from the written files, on their images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.images import read_rgb
from toolkit.formats.readers import LabelledImage, Shape, open_converted

if TYPE_CHECKING:
    from PIL import Image as PilImage
    from PIL import ImageDraw as PilDraw

PREVIEW_NAME = "preview.png"
_TILE = 360
_CAPTION = 18
_COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ffcc00", "#bf5af2", "#64d2ff", "#ff9f0a", "#ff2d92")


def write_contact_sheet(folder: Path, *, count: int) -> Path:
    """Draw the labels of `count` images, spread evenly over those that have any.

    Boxes are rectangles, masks and polygons outlines, positive points filled dots, negative ones
    crosses.

    Returns:
        The path of the image, `preview.png` in the folder.
    """
    from PIL import Image

    data = open_converted(folder)
    labelled = [image for image in data if image.shapes]
    chosen = [labelled[i] for i in _spread(len(labelled), count)]
    columns = max(1, math.ceil(math.sqrt(len(chosen))))
    rows = max(1, math.ceil(len(chosen) / columns))
    sheet = Image.new("RGB", (columns * _TILE, rows * (_TILE + _CAPTION)), "#1c1c1e")
    for number, image in enumerate(chosen):
        row, column = divmod(number, columns)
        place = (column * _TILE, row * (_TILE + _CAPTION))
        sheet.paste(_tile(image, data.classes), place)
    path = folder / PREVIEW_NAME
    sheet.save(path)
    return path


def _spread(available: int, count: int) -> list[int]:
    count = min(available, count)
    return [int((i + 0.5) * available / count) for i in range(count)]


def _tile(image: LabelledImage, classes: tuple[str, ...]) -> PilImage.Image:
    from PIL import Image, ImageDraw

    scale = _TILE / max(image.size_wh)
    size = tuple(max(1, round(side * scale)) for side in image.size_wh)
    picture = Image.fromarray(read_rgb(image.path)).resize((size[0], size[1]))
    tile = Image.new("RGB", (_TILE, _TILE + _CAPTION), "#1c1c1e")
    tile.paste(picture, (0, 0))
    draw = ImageDraw.Draw(tile)
    for shape in image.shapes:
        _draw_shape(draw, shape, image, scale)
    names = sorted({classes[shape.class_index] for shape in image.shapes})
    caption = f"{image.part}  {image.stem}  [{', '.join(names)}]"
    draw.text((3, _TILE + 2), caption[:62], fill="white")
    return tile


def _draw_shape(draw: PilDraw.ImageDraw, shape: Shape, image: LabelledImage, scale: float) -> None:
    import cv2

    colour = _COLOURS[shape.class_index % len(_COLOURS)]
    for polygon in shape.polygons_xy:
        _line(draw, polygon * scale, colour)
    if shape.rle is not None:
        pixels = shape.mask(image.size_wh).view(np.uint8)
        for contour in cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]:
            _line(draw, (contour[:, 0, :] + 0.5) * scale, colour)
    if shape.box_xyxy is not None:
        draw.rectangle([v * scale for v in shape.box_xyxy], outline=colour)
    for x, y in shape.positive_xy:
        cx, cy = (x + 0.5) * scale, (y + 0.5) * scale
        draw.ellipse((cx - 3, cy - 3, cx + 3, cy + 3), fill="#34c759", outline="black")
    for x, y in shape.negative_xy:
        cx, cy = (x + 0.5) * scale, (y + 0.5) * scale
        draw.line((cx - 3, cy - 3, cx + 3, cy + 3), fill="#ff3b30", width=2)
        draw.line((cx - 3, cy + 3, cx + 3, cy - 3), fill="#ff3b30", width=2)


def _line(
    draw: PilDraw.ImageDraw, points: np.ndarray[tuple[int, ...], np.dtype[np.float64]], colour: str
) -> None:
    closed = [(float(x), float(y)) for x, y in [*points, points[0]]]
    draw.line(closed, fill=colour, width=2)
