"""Changes of an image that a line brings about: light, focus, camera, compression, dust.

Pure functions with five strengths each. Lengths are shares of the image's shorter side, so that
images of any size change alike. Where the image moves, its mask moves along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from toolkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    RGB = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

STRENGTHS = (1, 2, 3, 4, 5)
_Values: TypeAlias = "tuple[float, float, float, float, float]"


@dataclass(frozen=True)
class Change:
    """One kind of change.

    Attributes:
        values: what it does at strengths 1 to 5, in `unit`.
        unit: in words.
        apply: changes an image by such a value.
        matrix: for changes that move the image, the affine map of its pixels, float64 (2, 3), by
            such a value; None where nothing moves.
        same_everywhere: whether all images get the same random draw, as from dust on a lens.
    """

    values: _Values
    unit: str
    apply: Callable[[RGB, float, Generator], RGB] | None = None
    matrix: Callable[[tuple[int, int], float, Generator], NDArray[np.float64]] | None = None
    same_everywhere: bool = False


def changed(
    image: RGB, mask: Mask | None, kind: str, strength: int, *, seed: int = 0, number: int = 0
) -> tuple[RGB, Mask | None]:
    """Return an image under a change, and its mask.

    Pixels that come in from outside repeat those of the border; the mask is false there.

    Example:
        >>> image = np.full((8, 8, 3), 100, np.uint8)
        >>> changed(image, None, "darker", 1)[0][0, 0].tolist()
        [90, 90, 90]

    Args:
        image: RGB, uint8 array (H, W, 3); it is not written to.
        mask: bool array (H, W), or None.
        kind: one of `CHANGES`.
        strength: 0 (as it is) to 5.
        seed: of directions, noise and specks.
        number: of the image; images of other numbers get other draws.

    Raises:
        ConfigError: an unknown kind or strength.
    """
    if kind not in CHANGES:
        raise ConfigError(f"change {kind}: unknown{did_you_mean(kind, CHANGES)}")
    if strength not in (0, *STRENGTHS):
        raise ConfigError(f"strength {strength}: must be 0 to {STRENGTHS[-1]}")
    if strength == 0:
        return image, mask
    change = CHANGES[kind]
    value = change.values[strength - 1]
    # The draw does not depend on the strength: a stronger shift goes the same way, only further.
    place = 0 if change.same_everywhere else number
    rng = np.random.default_rng([seed, list(CHANGES).index(kind), place])
    if change.matrix is not None:
        return _moved(image, mask, change.matrix(image.shape[:2], value, rng))
    assert change.apply is not None
    return change.apply(image, value, rng), mask


def _moved(image: RGB, mask: Mask | None, matrix: NDArray[np.float64]) -> tuple[RGB, Mask | None]:
    import cv2

    size_wh = (image.shape[1], image.shape[0])
    moved = cv2.warpAffine(
        image, matrix, size_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if mask is None:
        return np.asarray(moved, np.uint8), None
    pixels = cv2.warpAffine(mask.astype(np.uint8), matrix, size_wh, flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.uint8), pixels.astype(np.bool_)


def _by_table(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]], image: RGB) -> RGB:
    table = np.clip(np.rint(curve(np.arange(256.0))), 0, 255).astype(np.uint8)
    return table[image]


def _light(image: RGB, factor: float, rng: Generator) -> RGB:
    return _by_table(lambda v: v * factor, image)


def _gamma(image: RGB, exponent: float, rng: Generator) -> RGB:
    return _by_table(lambda v: 255 * (v / 255) ** exponent, image)


def _blur(image: RGB, share: float, rng: Generator) -> RGB:
    import cv2

    sigma = share * min(image.shape[:2])
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _noise(image: RGB, sigma: float, rng: Generator) -> RGB:
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(sigma)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _jpeg(image: RGB, quality: float, rng: Generator) -> RGB:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), options)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[:, :, ::-1])


def _dust(image: RGB, count: float, rng: Generator) -> RGB:
    """Darken round specks; out of focus, so their edges are soft."""
    import cv2

    height, width = image.shape[:2]
    side = min(height, width)
    light = np.ones((height, width), np.float32)
    for _ in range(int(count)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius, opacity = rng.uniform(0.002, 0.008) * side, rng.uniform(0.3, 0.8)
        cv2.circle(light, (round(x), round(y)), max(1, round(radius)), 1 - opacity, -1)
    light = cv2.GaussianBlur(light, (0, 0), max(0.5, 0.002 * side))
    return np.asarray(np.rint(image * light[:, :, None]), np.uint8)


def _white_balance(image: RGB, gain: float, rng: Generator) -> RGB:
    gains = np.array([1 + gain, 1.0, 1 - gain])
    return np.asarray(np.clip(np.rint(image * gains), 0, 255), np.uint8)


def _shift(shape: tuple[int, int], share: float, rng: Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    length = share * min(shape)
    return np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]])


def _rotation(shape: tuple[int, int], degrees: float, rng: Generator) -> NDArray[np.float64]:
    import cv2

    sign = 1 if rng.random() < 0.5 else -1
    centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    return np.asarray(cv2.getRotationMatrix2D(centre, sign * degrees, 1.0), np.float64)


CHANGES: Mapping[str, Change] = {
    "darker": Change((0.9, 0.8, 0.7, 0.6, 0.5), "times the light", _light),
    "brighter": Change((1.1, 1.2, 1.3, 1.4, 1.5), "times the light", _light),
    "gamma": Change((1.1, 1.25, 1.5, 1.75, 2.0), "exponent", _gamma),
    "blur": Change((0.001, 0.002, 0.003, 0.005, 0.008), "sigma as a share of the side", _blur),
    "noise": Change((2, 5, 10, 15, 25), "sigma in grey levels", _noise),
    "jpeg": Change((90, 70, 50, 30, 10), "quality", _jpeg),
    "shift": Change((0.01, 0.02, 0.04, 0.07, 0.1), "share of the side", matrix=_shift),
    "rotation": Change((1, 2, 4, 7, 10), "degrees", matrix=_rotation),
    "dust": Change((2, 5, 10, 20, 40), "specks on the lens", _dust, same_everywhere=True),
    "white-balance": Change((0.03, 0.06, 0.1, 0.15, 0.2), "red gain, blue loss", _white_balance),
}
"""All changes by name. Light: a lamp that ages or was set anew. Blur: focus. Shift and rotation:
another place of part or camera."""
