"""From a painted scene to the 8-bit picture a camera would deliver.

The good picture and the defective one go through the same lens, light and noise, so they differ
under the defect and nowhere else: that is what makes the mask exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.data.synthetic.defects import draw_defect
from toolkit.data.synthetic.scene import Canvas, draw_bottle, random_pose, smooth_noise

_SUPERSAMPLING = 2
_READ_NOISE = 0.9
_SHOT_NOISE = 0.012


@dataclass(frozen=True)
class Shot:
    """One rendered photograph.

    Attributes:
        image: (size, size, 3) uint8, BGR.
        clean: the same photograph without its defect.
        mask: (size, size) uint8, 255 exactly where `image` differs from `clean`, else 0.
    """

    image: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def photograph(rng: np.random.Generator, *, size: int, defect_type: str | None = None) -> Shot:
    """Render one bottle, good or with a defect.

    Args:
        rng: decides everything else; the good bottle is the same with and without a defect.
        size: side of the picture in pixels.
        defect_type: one of `DEFECT_TYPES`, or None for a good bottle.
    """
    import cv2

    scene_rng, defect_rng, camera_rng = rng.spawn(3)
    pose = random_pose(scene_rng, size=size * _SUPERSAMPLING)
    bottle = draw_bottle(pose, scene_rng)
    lens = _Lens.draw(camera_rng, size)
    clean = lens.expose(_shrink(bottle, size))
    if defect_type is None:
        return Shot(clean, clean, np.zeros((size, size), np.uint8))
    defect = draw_defect(defect_type, bottle, pose, defect_rng)
    stencil = defect.stencil.astype(np.float32) / 255
    coverage = np.asarray(cv2.resize(stencil, (size, size), interpolation=cv2.INTER_AREA))[
        ..., None
    ]
    mixed = _shrink(bottle, size) * (1 - coverage) + _shrink(defect.paint, size) * coverage
    inside = coverage[..., 0] > 0
    image = lens.expose(np.where(inside[..., None], mixed, _shrink(bottle, size)))
    # A few pixels of a defect round to the very grey of the bottle: move them by one step, so that
    # "changed" and "masked" are the same set.
    same = inside & (image == clean).all(axis=2)
    image[same, 0] = np.where(image[same, 0] < 128, image[same, 0] + 1, image[same, 0] - 1)
    return Shot(image, clean, np.where(inside, 255, 0).astype(np.uint8))


def _shrink(canvas: Canvas, size: int) -> Canvas:
    import cv2

    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.float32)


@dataclass(frozen=True)
class _Lens:
    """One exposure: gain (H, W, 3) of light and colour, offset (H, W) of haze, noise (H, W, 3)."""

    gain: Canvas
    haze: Canvas
    noise: Canvas

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> _Lens:
        exposure = rng.uniform(0.86, 1.1)
        angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.09)
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        slope = np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]
        vignette = rng.uniform(0, 0.05) * (axis[None] ** 2 + axis[:, None] ** 2)
        light = exposure * (1 + tilt * slope - vignette)
        colour = 1 + rng.normal(0, 0.015, 3)
        haze = rng.uniform(0, 7) + 1.5 * smooth_noise(rng, (size, size), (4, 4))
        return cls(
            gain=(light[..., None] * colour).astype(np.float32),
            haze=haze.astype(np.float32),
            noise=rng.standard_normal((size, size, 3), dtype=np.float32),
        )

    def expose(self, scene: Canvas) -> NDArray[np.uint8]:
        """Return the 8-bit picture; the noise grows with the light (shot noise)."""
        light = np.clip(scene, 0, 255) * self.gain + self.haze[..., None]
        spread = np.sqrt(_READ_NOISE**2 + _SHOT_NOISE * np.maximum(light, 0))
        return np.asarray(np.clip(np.rint(light + spread * self.noise), 0, 255), np.uint8)
