"""Convert regions to polygons and back, exact to the pixel.

The outline runs along pixel edges, so its extent is the half-open box. A region with holes is one
ring: each hole is joined to what lies above it by a seam of no width. Even-odd filling, sampled at
pixel centres (`toolkit.data.raster.fill`), restores the region exactly.

With a small inset (1/100 pixel towards the inside), cutting the coordinates to integers yields the
centres of the region's own border pixels. So OpenCV's `fillPoly` on integers, which paints the
border and which Ultralytics uses, restores the region exactly, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.regions import regions_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolkit.data.regions import Region

INSET = 0.01
_SEAM = 0.25  # of a pixel from its left side: off the centres, where filling is sampled

Point = tuple[float, float]

# Bits of the four pixels around a grid point.
_NW, _NE, _SW, _SE = 1, 2, 4, 8
_ODD = frozenset({1, 2, 4, 8, 7, 11, 13, 14})
_FALLING, _RISING = _NW | _SE, _NE | _SW
_COPIES = np.array(
    [1 if code in _ODD else 2 if code in (_FALLING, _RISING) else 0 for code in range(16)],
    dtype=np.int64,
)


def outline(region: Region, *, inset: float = 0.0) -> NDArray[np.float64]:
    """Return the region's outline as one closed ring, in pixel coordinates of the image.

    Args:
        region: connected, or several components (joined by seams through the background).
        inset: how far the ring is moved towards the inside, in pixels; under 0.25.

    Returns:
        float array (N, 2) of x, y; the first point is not repeated. A pixel covers
        [x, x + 1) x [y, y + 1).
    """
    whole: list[Point] = []
    for part in regions_of(region.crop):
        rings = _rings(part.crop, inset)
        ring = rings[0]
        for hole in sorted(rings[1:], key=lambda r: min(y for _, y in r)):
            ring = _with_hole(ring, hole, part.crop)
        x0, y0, _, _ = part.box_xyxy
        ring = [(x + x0, y + y0) for x, y in ring]
        whole = _with_part(whole, ring) if whole else ring
    return np.array(whole, dtype=np.float64) + region.box_xyxy[:2]


def _rings(crop: NDArray[np.bool_], inset: float) -> list[list[Point]]:
    """Return the border rings, the outer one first.

    Corners of a rectilinear border pair up along rows to its horizontal edges and along columns to
    its vertical edges; following the pairs in turn walks the rings.
    """
    padded = np.pad(crop, 1).view(np.uint8)
    code = padded[:-1, :-1] + 2 * padded[:-1, 1:] + 4 * padded[1:, :-1] + 8 * padded[1:, 1:]
    ys, xs = np.nonzero(_COPIES[code])
    codes = code[ys, xs]
    copies = _COPIES[codes]
    ys, xs, codes = np.repeat(ys, copies), np.repeat(xs, copies), np.repeat(codes, copies)
    # Where two pixels touch at a point, two corners lie there: the first ends the edge from the
    # left, the second starts the edge to the right. Which of them meets the edge from above
    # decides whether the ring passes through between the pixels or around them; around keeps the
    # two pixels on one ring.
    second = np.zeros(len(xs), dtype=np.int64)
    second[1:] = (np.diff(xs) == 0) & (np.diff(ys) == 0)
    tie = np.where(codes == _FALLING, 1 - second, second)
    by_column = np.lexsort((tie, ys, xs))
    vertical = np.empty(len(xs), dtype=np.int64)
    vertical[by_column[0::2]] = by_column[1::2]
    vertical[by_column[1::2]] = by_column[0::2]

    entered, left = _insets(codes, second, inset)
    points_in = np.column_stack([xs, ys]) + entered
    points_out = np.column_stack([xs, ys]) + left
    return _walk(vertical.tolist(), points_in.tolist(), points_out.tolist(), codes.tolist())


def _insets(
    codes: NDArray[np.uint8], second: NDArray[np.int64], inset: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets of each corner towards the inside, beside its horizontal and its vertical edge.

    The two differ only where pixels touch at a point: there the ring crosses from one to the other.
    """
    east = np.where((codes & (_NE | _SE)) > 0, 1.0, -1.0)
    south = np.where((codes & (_SW | _SE)) > 0, 1.0, -1.0)
    # Three pixels inside: the corner of the missing one; the edge lies on the side away from it.
    for missing, dx, dy in ((_NW, 1, 1), (_NE, -1, 1), (_SW, 1, -1), (_SE, -1, -1)):
        concave = codes == (15 - missing)
        east[concave], south[concave] = dx, dy
    beside = np.column_stack([east, south])
    entered, left = beside.copy(), beside.copy()
    falling, rising, last = codes == _FALLING, codes == _RISING, second == 1
    for which, horizontal, vertical in (
        (falling & ~last, (-1, -1), (1, 1)),  # edge from the left, then down: around the SW gap
        (falling & last, (1, 1), (-1, -1)),  # edge to the right, then up: around the NE gap
        (rising & ~last, (-1, 1), (1, -1)),  # edge from the left, then up: around the NW gap
        (rising & last, (1, -1), (-1, 1)),  # edge to the right, then down: around the SE gap
    ):
        entered[which], left[which] = horizontal, vertical
    return entered * inset, left * inset


def _walk(
    vertical: list[int],
    beside_horizontal: list[list[float]],
    beside_vertical: list[list[float]],
    codes: list[int],
) -> list[list[Point]]:
    rings = []
    seen = [False] * len(vertical)
    touching = (_FALLING, _RISING)
    for start in range(len(vertical)):
        if seen[start]:
            continue
        ring: list[Point] = []
        at = start
        while not seen[at]:
            other = at ^ 1  # corners of one row stand in pairs
            seen[at] = seen[other] = True
            for corner, points in (
                (at, (beside_vertical, beside_horizontal)),
                (other, (beside_horizontal, beside_vertical)),
            ):
                for place in points if codes[corner] in touching else points[:1]:
                    x, y = place[corner]
                    ring.append((x, y))
            at = vertical[other]
        rings.append(ring)
    return rings


def _with_part(ring: list[Point], part: list[Point]) -> list[Point]:
    """Join a ring that lies apart, by a seam of no width between the two nearest corners."""
    a, b = np.array(ring), np.array(part)
    _, i, j = min(
        (float(d.min()), i, int(d.argmin()))
        for i, d in enumerate(np.abs(b - corner).sum(axis=1) for corner in a)
    )
    return [*ring[: i + 1], *part[j:], *part[: j + 1], *ring[i:]]


def _with_hole(ring: list[Point], hole: list[Point], crop: NDArray[np.bool_]) -> list[Point]:
    """Join a hole to the ring above it by a vertical seam through the region."""
    at, column, top = _topmost_edge(hole)
    row = top - 1
    while row >= 0 and crop[row, column]:
        row -= 1
    x = column + _SEAM
    above = _edge_below(ring, x, row + 1)
    y_ring, y_hole = ring[above][1], hole[at][1]
    around = hole[at + 1 :] + hole[: at + 1]
    seam_up, seam_down = (x, y_ring), (x, y_hole)
    return [*ring[: above + 1], seam_up, seam_down, *around, seam_down, seam_up, *ring[above + 1 :]]


def _topmost_edge(hole: list[Point]) -> tuple[int, int, int]:
    """Return index, column and row of a horizontal edge at the hole's top."""
    top = min(y for _, y in hole)
    for i, (x, y) in enumerate(hole):
        x_next, y_next = hole[(i + 1) % len(hole)]
        if abs(y - top) < _SEAM and abs(y_next - top) < _SEAM and abs(x - x_next) > 2 * _SEAM:
            return i, round(min(x, x_next)), round(top)
    raise ValueError("a ring without a horizontal edge at its top")


def _edge_below(ring: list[Point], x: float, row: int) -> int:
    """Return the index of the horizontal edge of the ring that spans x at this row."""
    for i, (x0, y0) in enumerate(ring):
        x1, y1 = ring[(i + 1) % len(ring)]
        if abs(y0 - row) < _SEAM and abs(y1 - row) < _SEAM and min(x0, x1) < x < max(x0, x1):
            return i
    raise ValueError("no edge above the hole")
