"""The faultless bottle, seen from above through its neck.

Everything is painted on a polar strip (angle x radius), where rings are columns and highlights are
short bars, and then bent into the picture in one remap. Lengths are in radii of the bottle (its
outer edge is 1), angles in radians with y pointing down. Colours are BGR, float32, 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Canvas = NDArray[np.float32]
Floats = NDArray[np.floating]

HOLE_RADIUS = 0.49
AMBER_RADIUS = 0.785
_STRIP_RADIUS = 1.6  # the farthest corner of the picture, the largest shift included
_ANGLES = 1024

# radius -> BGR: dark mouth, brown lip, grooved finish, amber thread, glossy shoulder, soft edge.
_PROFILE: tuple[tuple[float, tuple[int, int, int]], ...] = (
    (0.00, (47, 41, 40)),
    (0.25, (43, 35, 35)),
    (0.47, (41, 32, 32)),
    (0.488, (42, 37, 52)),
    (0.500, (64, 60, 74)),
    (0.515, (50, 50, 53)),
    (0.550, (50, 47, 43)),
    (0.595, (52, 49, 45)),
    (0.612, (84, 79, 73)),
    (0.626, (60, 56, 52)),
    (0.660, (78, 73, 68)),
    (0.685, (70, 66, 63)),
    (0.705, (84, 79, 74)),
    (0.735, (66, 62, 60)),
    (0.755, (72, 70, 72)),
    (0.805, (76, 72, 72)),
    (0.840, (64, 59, 58)),
    (0.870, (74, 70, 70)),
    (0.900, (116, 109, 110)),
    (0.930, (78, 72, 70)),
    (0.955, (58, 53, 52)),
    (0.985, (84, 82, 78)),
    (1.005, (160, 161, 156)),
    (1.030, (238, 243, 244)),
    (1.050, (251, 252, 252)),
    (_STRIP_RADIUS, (252, 253, 253)),
)


@dataclass(frozen=True)
class Pose:
    """Where the bottle stands.

    Attributes:
        size: side of the square canvas in pixels.
        centre_xy: centre of the outer edge, pixels.
        radius: outer radius, pixels.
        tilt_xy: how far the mouth is displaced against the outer edge, in radii (the camera never
            looks exactly along the axis).
        rotation: angle of the mould seam.
    """

    size: int
    centre_xy: tuple[float, float]
    radius: float
    tilt_xy: tuple[float, float]
    rotation: float

    def point(self, radius: float, angle: float) -> Canvas:
        """Return the pixel (2,) of one point given in polar coordinates of the bottle."""
        return np.asarray(self.points(np.array([radius]), np.array([angle]))[0], np.float32)

    def points(self, radii: Floats, angles: Floats) -> Canvas:
        """Return the pixels (n, 2) of points given in polar coordinates of the bottle."""
        lever = np.maximum(1 - radii, 0)
        x = self.centre_xy[0] + self.radius * (radii * np.cos(angles) + self.tilt_xy[0] * lever)
        y = self.centre_xy[1] + self.radius * (radii * np.sin(angles) + self.tilt_xy[1] * lever)
        return np.stack([x, y], axis=-1).astype(np.float32)


def random_pose(rng: np.random.Generator, *, size: int) -> Pose:
    """Draw a pose: shift up to 2.5 % of the side, scale 41.5 to 46 %, any rotation, slight tilt."""
    shift = rng.uniform(-0.025, 0.025, 2)
    tilt = rng.normal(0, 0.012, 2)
    return Pose(
        size=size,
        centre_xy=(size * (0.5 + float(shift[0])), size * (0.5 + float(shift[1]))),
        radius=size * float(rng.uniform(0.415, 0.46)),
        tilt_xy=(float(tilt[0]), float(tilt[1])),
        rotation=float(rng.uniform(0, 2 * np.pi)),
    )


def smooth_noise(
    rng: np.random.Generator, shape_hw: tuple[int, int], cells_hw: tuple[int, int]
) -> Canvas:
    """Return noise of unit spread, (H, W) float32, that varies over `cells_hw` cells."""
    import cv2

    coarse = rng.standard_normal(cells_hw, dtype=np.float32)
    height, width = shape_hw
    return np.asarray(
        cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32
    )


def draw_bottle(pose: Pose, rng: np.random.Generator) -> Canvas:
    """Paint one good bottle with its own glass, highlights and harmless nuisances.

    Returns:
        (size, size, 3) float32 BGR, not clipped.
    """
    import cv2

    columns = max(int(_STRIP_RADIUS * pose.radius), 32)
    radii = np.linspace(0, _STRIP_RADIUS, columns, dtype=np.float32)
    strip = _paint_glass(radii, rng, pose)
    _paint_highlights(strip, radii, rng, pose)
    _paint_nuisances(strip, radii, rng)
    strip = np.concatenate([strip, strip[:1]])  # row 1024 is row 0 again: no seam at angle 0

    y, x = np.mgrid[0 : pose.size, 0 : pose.size].astype(np.float32)
    x = (x - pose.centre_xy[0]) / pose.radius
    y = (y - pose.centre_xy[1]) / pose.radius
    lever = np.maximum(1 - cv2.magnitude(x, y), 0)
    radius, angle = cv2.cartToPolar(x - pose.tilt_xy[0] * lever, y - pose.tilt_xy[1] * lever)
    picture = cv2.remap(
        strip,
        radius * np.float32((columns - 1) / _STRIP_RADIUS),
        angle * np.float32(_ANGLES / (2 * np.pi)),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return _dust(np.asarray(picture, np.float32), pose, rng)


def _paint_glass(radii: Canvas, rng: np.random.Generator, pose: Pose) -> Canvas:
    """Return the strip (angles, radii, 3): rings, granular finish, amber thread, mould seam."""
    stops = np.array([stop for stop, _ in _PROFILE], np.float32)
    colours = np.array([colour for _, colour in _PROFILE], np.float32)
    inner = (stops > 0.45) & (stops < 0.97)
    stops = np.where(inner, stops + rng.normal(0, 0.0025, stops.shape), stops)
    profile = np.stack([np.interp(radii, stops, colours[:, c]) for c in range(3)], axis=-1)
    strip = np.repeat(profile[None].astype(np.float32), _ANGLES, axis=0)

    glossy = _around(rng, cells=9) * 0.10
    _scale_band(strip, radii, centre=0.90, width=0.04, gain=glossy)
    _scale_band(strip, radii, centre=0.69, width=0.05, gain=_around(rng, cells=14) * 0.10)

    finish = (radii > 0.515) & (radii < 0.61)
    grain = smooth_noise(rng, (_ANGLES, int(finish.sum())), (340, 7))
    strip[:, finish] += (grain * 7.0)[..., None] * np.array([1.0, 1.0, 0.85], np.float32)

    warmth = rng.uniform(0.25, 1.0)
    wobble = AMBER_RADIUS + 0.006 * np.sin(np.arange(_ANGLES) / _ANGLES * 2 * np.pi - pose.rotation)
    near = (radii > 0.74) & (radii < 0.83)
    ring = np.exp(-0.5 * ((radii[None, near] - wobble[:, None]) / 0.013) ** 2)
    flicker = np.clip(0.75 + 0.35 * _around(rng, cells=40) + 0.2 * _around(rng, cells=220), 0, 1.6)
    amber = np.array([25, 52, 105], np.float32) * np.float32(warmth)
    strip[:, near] += (ring * flicker[:, None])[..., None].astype(np.float32) * amber

    for half_turn in (0.0, np.pi):
        _bar(
            strip,
            radii,
            angle=pose.rotation + half_turn,
            spread=0.006,
            centre=0.86,
            width=0.06,
            colour=(-22, -22, -22),
        )
    return strip


def _paint_highlights(strip: Canvas, radii: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Add what the lamps leave on the glass: two lamps that stay put while bottles turn."""
    for lamp in (2.65, 5.75):
        angle = lamp + rng.normal(0, 0.12)
        strength = rng.uniform(0.5, 1.0)
        _bar(
            strip,
            radii,
            angle=angle,
            spread=0.5,
            centre=0.70,
            width=0.05,
            colour=tuple(strength * c for c in (10, 11, 9)),
        )
        for _ in range(rng.integers(2, 6)):
            radius = float(rng.choice([0.618, 0.665, 0.708, 0.757, 0.785])) + rng.normal(0, 0.003)
            glare = strength * rng.uniform(60, 190)
            _bar(
                strip,
                radii,
                angle=angle + rng.normal(0, 0.16),
                spread=rng.uniform(0.02, 0.11),
                centre=radius,
                width=rng.uniform(0.003, 0.007),
                colour=(0.85 * glare, 0.97 * glare, glare),
            )
    glow = rng.uniform(0, 16)
    _bar(
        strip,
        radii,
        angle=rng.uniform(0, 2 * np.pi),
        spread=0.9,
        centre=rng.uniform(0.05, 0.3),
        width=0.12,
        colour=(glow * 0.8, glow, glow),
    )


def _paint_nuisances(strip: Canvas, radii: Canvas, rng: np.random.Generator) -> None:
    """Add what a good bottle may show: label reflection, hair-thin mould line, dull thread."""
    if rng.random() < 0.45:
        tint = np.array(((70, 52, 40), (45, 62, 80), (62, 66, 66))[rng.integers(3)], np.float32)
        _bar(
            strip,
            radii,
            angle=rng.uniform(0, 2 * np.pi),
            spread=rng.uniform(0.12, 0.4),
            centre=rng.uniform(0.86, 0.95),
            width=rng.uniform(0.02, 0.035),
            colour=tuple(rng.uniform(0.5, 1.0) * tint),
        )
    if rng.random() < 0.4:
        start = rng.uniform(0, 2 * np.pi)
        for step in np.linspace(0, 1, 24):
            _bar(
                strip,
                radii,
                angle=start + 0.35 * step,
                spread=0.012,
                centre=0.74 + 0.09 * float(step) ** 2,
                width=0.004,
                colour=(38, 40, 40),
            )
    if rng.random() < 0.3:
        _bar(
            strip,
            radii,
            angle=rng.uniform(0, 2 * np.pi),
            spread=rng.uniform(0.3, 0.7),
            centre=AMBER_RADIUS,
            width=0.02,
            colour=(-4, -18, -38),
        )


def _dust(picture: Canvas, pose: Pose, rng: np.random.Generator) -> Canvas:
    """Add up to nine specks of dust, each a soft dot of about one final pixel."""
    import cv2

    if rng.random() < 0.5:
        return picture
    specks = np.zeros((pose.size, pose.size), np.uint8)
    count = int(rng.integers(2, 10))
    radii = np.sqrt(rng.uniform(0, 0.95, count)).astype(np.float32)
    angles = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    for x, y in pose.points(radii, angles):
        centre = (round(float(x) * 16), round(float(y) * 16))
        side = rng.uniform(0.0015, 0.004) * pose.size
        cv2.circle(specks, centre, round(side * 16), int(rng.integers(30, 110)), -1, cv2.LINE_AA, 4)
    return np.asarray(picture + specks.astype(np.float32)[..., None], np.float32)


def _around(rng: np.random.Generator, *, cells: int) -> Canvas:
    """Return (angles,) smooth noise that closes on itself."""
    knots = rng.standard_normal(cells)
    places = np.linspace(0, cells, _ANGLES, endpoint=False)
    closed = np.append(knots, knots[0])
    return np.asarray(np.interp(places, np.arange(cells + 1), closed), np.float32)


def _scale_band(strip: Canvas, radii: Canvas, *, centre: float, width: float, gain: Canvas) -> None:
    near = np.abs(radii - centre) < 3 * width
    fall = np.exp(-0.5 * ((radii[near] - centre) / width) ** 2)
    strip[:, near] *= (1 + gain[:, None] * fall[None])[..., None].astype(np.float32)


def _bar(
    strip: Canvas,
    radii: Canvas,
    *,
    angle: float,
    spread: float,
    centre: float,
    width: float,
    colour: tuple[float, ...],
) -> None:
    """Add a soft bar of the given angle and radius (Gaussian in both) to the strip."""
    near = np.abs(radii - centre) < 3.5 * width
    axis = np.arange(_ANGLES, dtype=np.float32) * np.float32(2 * np.pi / _ANGLES)
    turn = np.abs((axis - angle + np.pi) % (2 * np.pi) - np.pi)
    rows = np.flatnonzero(turn < 3.5 * spread)
    along = np.exp(-0.5 * (turn[rows] / spread) ** 2)
    across = np.exp(-0.5 * ((radii[near] - centre) / width) ** 2)
    light = along[:, None, None] * across[None, :, None] * np.asarray(colour, np.float32)
    strip[np.ix_(rows, np.flatnonzero(near))] += light.astype(np.float32)
