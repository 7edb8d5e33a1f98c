"""Run lengths as COCO stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Region


class Rle(TypedDict):
    """Compressed run lengths of a mask.

    `size` is height, width; `counts` are the runs down the columns, in COCO's text coding.
    """

    size: list[int]
    counts: str


def encode_region(region: Region, size_wh: tuple[int, int]) -> Rle:
    """Return the region as run lengths of the whole image, looking only at its own columns."""
    from pycocotools import mask as coco_mask

    width, height = size_wh
    x0, y0, x1, y1 = region.box_xyxy
    columns = np.zeros((x1 - x0, height), dtype=np.int8)
    columns[:, y0:y1] = region.crop.T
    flat = columns.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    edges = np.concatenate([[0], changes + x0 * height, [width * height]])
    if flat[-1] and x1 < width:  # the last run ends with the region's last column
        edges = np.insert(edges, -1, x1 * height)
    runs = {"size": [height, width], "counts": np.diff(edges).tolist()}
    coded = coco_mask.frPyObjects(runs, height, width)
    return {"size": [height, width], "counts": coded["counts"].decode("ascii")}


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Return the mask, bool (H, W)."""
    from pycocotools import mask as coco_mask

    mask: NDArray[np.uint8] = coco_mask.decode(rle)
    return mask.astype(np.bool_)
