"""The three defects of the synthetic bottle.

A defect is a paint and a coverage: the paint is a whole picture, the coverage says how much of
each pixel it takes. Coverage comes from polygons drawn at a finer scale, so it is both the
anti-aliased edge and, where it is above zero, the ground-truth mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.data.synthetic.scene import HOLE_RADIUS, Canvas, Pose, smooth_noise

_SUBPIXEL = 16  # OpenCV's fixed-point shift of 4 bits


@dataclass(frozen=True)
class Defect:
    """Paint (size, size, 3) float32 BGR and stencil (size, size) uint8, 0 or 255, on the canvas."""

    paint: Canvas
    stencil: NDArray[np.uint8]


def draw_defect(defect_type: str, bottle: Canvas, pose: Pose, rng: np.random.Generator) -> Defect:
    """Draw one defect of the given type over the bottle.

    Raises:
        KeyError: no such defect type; see `DEFECT_TYPES`.
    """
    return _PAINTERS[defect_type](bottle, pose, rng)


def _broken_large(bottle: Canvas, pose: Pose, rng: np.random.Generator) -> Defect:
    """A sector of the rim is gone: fracture faces from the mouth outwards."""
    span = rng.uniform(0.9, 4.2)
    middle = rng.uniform(0, 2 * np.pi)
    inner = HOLE_RADIUS - rng.uniform(0.0, 0.04)
    outer = rng.uniform(0.78, 0.97)
    outline = _sector(rng, middle=middle, span=span, inner=inner, outer=outer, jag=0.03)
    stencil = _fill(pose, [pose.points(*outline)])
    paint = _fracture(bottle, pose, stencil, rng, facets=int(rng.integers(9, 22)), glare=0.22)
    return Defect(paint, stencil)


def _broken_small(bottle: Canvas, pose: Pose, rng: np.random.Generator) -> Defect:
    """One or two chips out of the lip, each with a bright bruise."""
    stencil = np.zeros((pose.size, pose.size), np.uint8)
    for _ in range(1 + int(rng.random() < 0.2)):
        middle = rng.uniform(0, 2 * np.pi)
        inner = rng.uniform(HOLE_RADIUS - 0.01, 0.58)
        outer = inner + rng.uniform(0.2, 0.4)
        span = rng.uniform(0.35, 1.5)
        outline = _sector(rng, middle=middle, span=span, inner=inner, outer=outer, jag=0.022)
        stencil |= _fill(pose, [pose.points(*outline)])
    paint = _fracture(bottle, pose, stencil, rng, facets=int(rng.integers(10, 26)), glare=0.4)
    return Defect(paint, stencil)


def _contamination(bottle: Canvas, pose: Pose, rng: np.random.Generator) -> Defect:
    """Something that does not belong there: a scrap of cloth, a washer or crumbs."""
    return (_scrap, _washer, _crumbs)[rng.choice(3, p=[0.45, 0.25, 0.3])](bottle, pose, rng)


def _scrap(bottle: Canvas, pose: Pose, rng: np.random.Generator) -> Defect:
    """A torn piece of cloth or paper in the mouth, fraying at its edge."""
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.2)
    centre = pose.point(away, angle)
    outline = centre + _blob(rng, corners=int(rng.integers(6, 12)), rough=0.3) * (
        rng.uniform(0.2, 0.5) * pose.radius
    )
    stencil = _fill(pose, [outline])
    threads = outline[rng.integers(0, len(outline), int(rng.integers(4, 12)))]
    for start in threads:
        _thread(stencil, start, length=rng.uniform(0.04, 0.12) * pose.radius, rng=rng)
    size = (pose.size, pose.size)
    weave = smooth_noise(rng, size, (170, 170)) * 8 + smooth_noise(rng, size, (9, 9)) * 7
    # One end hangs into the dark of the bottle.
    shade = _slope(pose, rng) * rng.uniform(15, 60)
    tint = np.array(((1.0, 1.0, 1.0), (0.88, 0.96, 1.04), (1.05, 1.0, 0.92))[rng.integers(3)])
    grey = np.maximum(rng.uniform(62, 105) + shade, 50) + weave
    return Defect(np.asarray(grey[..., None] * tint, np.float32), stencil)


def _washer(bottle: Canvas, pose: Pose, rng: np.random.Generator) -> Defect:
    """A translucent plastic disc with a hole, lying in the mouth."""
    import cv2

    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.1)
    x, y = pose.point(away, angle)
    centre = (round(float(x) * _SUBPIXEL), round(float(y) * _SUBPIXEL))
    outer = rng.uniform(0.22, 0.43) * pose.radius
    hole = rng.uniform(0.15, 0.35) * outer
    stencil = np.zeros((pose.size, pose.size), np.uint8)
    cv2.circle(stencil, centre, round(outer * _SUBPIXEL), 255, -1, cv2.LINE_8, 4)
    cv2.circle(stencil, centre, round(hole * _SUBPIXEL), 0, -1, cv2.LINE_8, 4)
    light = np.full((pose.size, pose.size), rng.uniform(24, 42), np.float32) + _slope(pose, rng) * 9
    shine = np.zeros((pose.size, pose.size), np.uint8)
    thick = max(round(0.03 * outer), 1)
    for _ in range(int(rng.integers(2, 5))):
        start = rng.uniform(0, 360)
        at = round(rng.uniform(0.45, 0.97) * outer)
        cv2.ellipse(
            shine,
            (round(float(x)), round(float(y))),
            (at, at),
            0,
            start,
            start + rng.uniform(20, 110),
            int(rng.integers(25, 80)),
            thick,
            cv2.LINE_AA,
        )
    for edge in (outer, hole):
        cv2.circle(shine, centre, round(edge * _SUBPIXEL), 45, 2 * thick, cv2.LINE_AA, 4)
    light += cv2.GaussianBlur(np.asarray(shine, np.float32), (0, 0), pose.size / 500)
    tint = np.array([1.05, 1.0, 0.96], np.float32)
    return Defect((bottle * 0.85 + light[..., None] * tint).astype(np.float32), stencil)


def _crumbs(bottle: Canvas, pose: Pose, rng: np.random.Generator) -> Defect:
    """Loose bits of residue, in the mouth or on the shoulder."""
    import cv2

    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.72)
    centre = pose.point(away, angle)
    pieces = []
    for scale in rng.uniform(0.03, 0.12, int(rng.integers(4, 13))):
        place = centre + rng.normal(0, 0.16, 2) * pose.radius
        pieces.append(place + _blob(rng, corners=9, rough=0.22) * scale * pose.radius)
    stencil = _fill(pose, pieces)
    speckle = smooth_noise(rng, (pose.size, pose.size), (85, 85)) * 14
    tint = np.array(((0.68, 0.85, 1.05), (0.95, 1.0, 1.0), (0.8, 0.95, 0.95))[rng.integers(3)])
    level = rng.uniform(70, 125) + speckle + _slope(pose, rng) * 40
    # A light rim above and a dark one below round the pieces off.
    relief = cv2.GaussianBlur(stencil.astype(np.float32) / 255, (0, 0), pose.size * 0.008)
    level += np.clip(relief - np.roll(relief, pose.size // 80, axis=0), -1, 1) * 60
    return Defect((level[..., None] * tint).astype(np.float32), stencil)


def _fracture(
    bottle: Canvas,
    pose: Pose,
    stencil: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    facets: int,
    glare: float,
) -> Canvas:
    """Paint broken glass: flat facets with their own shade, ripples, bright ridges, glints."""
    import cv2

    size = pose.size
    ys, xs = np.nonzero(stencil)
    picks = rng.integers(0, len(xs), facets)
    seeds = np.full((size, size), 255, np.uint8)
    seeds[ys[picks], xs[picks]] = 0
    # The nearest seed of every pixel, in other words a Voronoi diagram; bent so that ridges curve.
    _, label = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    bend = size * 0.008
    label = cv2.remap(
        label.astype(np.float32),
        x + bend * smooth_noise(rng, (size, size), (14, 14)),
        y + bend * smooth_noise(rng, (size, size), (14, 14)),
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.int32)
    # Most faces are dark glass; a few turn towards a lamp.
    shades = rng.uniform(40, 78, facets + 1)
    lit = rng.random(facets + 1) < glare
    shades[lit] = rng.uniform(85, 150, int(lit.sum()))
    slopes = rng.normal(0, 110, (2, facets + 1)) / size
    mid_y, mid_x = float(ys.mean()), float(xs.mean())
    tone = shades[label] + slopes[0][label] * (x - mid_x) + slopes[1][label] * (y - mid_y)
    tone = cv2.GaussianBlur(np.clip(tone, 30, 190).astype(np.float32), (0, 0), size * 0.006)

    # Conchoidal ripples run around the point of impact; dust of broken glass lies on the faces.
    pivot = rng.uniform(-0.25, 0.25, 2) * size
    away = cv2.magnitude(x - mid_x - float(pivot[0]), y - mid_y - float(pivot[1]))
    ripple = np.sin(away * (2 * np.pi / (size * rng.uniform(0.012, 0.035))))
    tone += ripple * smooth_noise(rng, (size, size), (7, 7)) * 6
    tone += smooth_noise(rng, (size, size), (11, 11)) * 6
    powder = np.clip(smooth_noise(rng, (size, size), (6, 6)), 0, 2)
    tone += np.abs(smooth_noise(rng, (size, size), (170, 170))) * (3 + 9 * powder)

    cross = np.ones((3, 3), np.uint8)
    ridge = cv2.morphologyEx(label.astype(np.float32), cv2.MORPH_GRADIENT, cross) > 0
    rim = cv2.morphologyEx(stencil, cv2.MORPH_GRADIENT, cross) > 0
    catch = np.clip(smooth_noise(rng, (size, size), (14, 14)) - 0.2, 0, 2)
    tone += ridge * catch * 70 + rim * (10 + catch * 75)
    glint = smooth_noise(rng, (size, size), (64, 64))
    tone += np.clip(glint - 1.1, 0, 0.7) * 420 * (catch > 0.35) * (0.3 + glare)
    tint = np.array([1.05, 1.0, 0.98]) + rng.normal(0, 0.03, 3)
    glass = tone[..., None] * tint
    return np.asarray(0.78 * glass + 0.22 * np.minimum(bottle, 120), np.float32)


def _sector(
    rng: np.random.Generator, *, middle: float, span: float, inner: float, outer: float, jag: float
) -> tuple[Canvas, Canvas]:
    """Return radii and angles of a jagged, lens-like outline between two radii."""
    steps = max(int(span * 9), 7)
    across = np.linspace(-0.5, 0.5, steps)
    bulge = np.sqrt(np.maximum(1 - (2 * across) ** 2, 0)) ** rng.uniform(0.25, 0.7)
    wild = rng.normal(0, jag, steps)
    wild += np.interp(across, np.linspace(-0.5, 0.5, 5), rng.normal(0, 2.0 * jag, 5))
    far = inner + np.maximum((outer - inner) * bulge + wild, 0.02)
    near = np.full(steps, inner) + rng.normal(0, 0.15 * jag, steps)
    angles = middle + span * across
    edge = angles + rng.normal(0, 0.12 * span / steps, steps)
    radii = np.concatenate([np.minimum(far, 0.97), near[::-1]])
    return radii.astype(np.float32), np.concatenate([edge, angles[::-1]]).astype(np.float32)


def _blob(rng: np.random.Generator, *, corners: int, rough: float) -> Canvas:
    """Return the outline (n, 2) of an irregular patch of mean radius one about the origin."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.normal(0, 0.15, corners)
    reach = np.clip(1 + rng.normal(0, rough, corners), 0.4, 1.7)
    fine = np.linspace(0, corners, corners * 8, endpoint=False)
    index = np.arange(corners + 1)
    x = np.interp(fine, index, np.append(reach * np.cos(angles), reach[0] * np.cos(angles[0])))
    y = np.interp(fine, index, np.append(reach * np.sin(angles), reach[0] * np.sin(angles[0])))
    fray = rng.normal(0, 0.02, (2, fine.size))
    return np.stack([x + fray[0], y + fray[1]], axis=-1).astype(np.float32)


def _thread(
    stencil: NDArray[np.uint8], start: Canvas, *, length: float, rng: np.random.Generator
) -> None:
    """Draw a loose, curling thread that begins at `start`."""
    import cv2

    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, 10))
    step = length / 10
    path = start + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], -1) * step, axis=0)
    thick = max(round(stencil.shape[0] / 300), 1)
    cv2.polylines(stencil, [np.round(path).astype(np.int32)], False, 255, thick, cv2.LINE_8)


def _fill(pose: Pose, outlines: list[Canvas]) -> NDArray[np.uint8]:
    import cv2

    stencil = np.zeros((pose.size, pose.size), np.uint8)
    for outline in outlines:
        fixed = np.round(outline * _SUBPIXEL).astype(np.int32)
        cv2.fillPoly(stencil, [fixed], 255, cv2.LINE_8, 4)
    return stencil


def _slope(pose: Pose, rng: np.random.Generator) -> Canvas:
    """Return a linear shade (size, size) from -1 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.7, 0.7, pose.size, dtype=np.float32)
    return np.float32(np.cos(angle)) * axis[None] + np.float32(np.sin(angle)) * axis[:, None]


_PAINTERS: dict[str, Callable[[Canvas, Pose, np.random.Generator], Defect]] = {
    "broken_large": _broken_large,
    "broken_small": _broken_small,
    "contamination": _contamination,
}
DEFECT_TYPES = tuple(_PAINTERS)
