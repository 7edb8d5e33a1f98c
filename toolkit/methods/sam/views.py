"""Augmented views of an image that can be cached: turns, flips and brightness.

An embedding is expensive and augmentation normally forbids caching it; a fixed handful of views
per image allows both. View 0 is the image itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNT = 8
_BRIGHTNESS = (1.0, 0.85, 1.15, 0.92, 1.08, 0.8, 1.2, 1.0)
# Far-apart views first, so that a small number of them already covers flips and quarter turns.
_TURNS_AND_FLIP = (
    (0, False), (1, True), (2, False), (3, True), (0, True), (1, False), (2, True), (3, False),
)  # fmt: skip


def view_of_array(array: NDArray[Any], view: int) -> NDArray[Any]:
    """Turn and flip an array (H, W) or (H, W, C) as the view says; brightness stays.

    Raises:
        ValueError: no such view.
    """
    if not 0 <= view < COUNT:
        raise ValueError(f"view {view}: there are views 0 to {COUNT - 1}")
    turns, flip = _TURNS_AND_FLIP[view]
    turned = np.rot90(array, turns, axes=(0, 1))
    return np.ascontiguousarray(turned[:, ::-1] if flip else turned)


def turns_on_its_side(view: int) -> bool:
    """Whether width and height of the view are swapped."""
    return _TURNS_AND_FLIP[view][0] % 2 == 1


def undo_view(array: NDArray[Any], view: int) -> NDArray[Any]:
    """Turn and flip an array (H, W) or (H, W, C) back to how it was before `view_of_array`."""
    turns, flip = _TURNS_AND_FLIP[view]
    return np.ascontiguousarray(np.rot90(array[:, ::-1] if flip else array, -turns, axes=(0, 1)))


def points_in_view(
    points_xy: NDArray[np.float32], view: int, size_wh: tuple[int, int]
) -> NDArray[np.float32]:
    """Return where pixels (N, 2), x and y, of an image lie in its view."""
    turns, flip = _TURNS_AND_FLIP[view]
    width, height = size_wh
    x, y = points_xy[:, 0], points_xy[:, 1]
    for _ in range(turns):
        x, y = y, width - 1 - x
        width, height = height, width
    if flip:
        x = width - 1 - x
    return np.stack([x, y], axis=1).astype(np.float32)


def view_of_image(image: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
    """Return one view of an RGB image (H, W, 3), its brightness changed too."""
    turned = view_of_array(image, view)
    factor = _BRIGHTNESS[view]
    if factor == 1.0:
        return turned
    lightened: NDArray[np.uint8] = np.clip(turned * np.float32(factor), 0, 255).astype(np.uint8)
    return lightened
