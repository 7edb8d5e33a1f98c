"""The eight flips and quarter turns of an image (the symmetry group D4), forwards and backwards.

Used by test-time augmentation and by cached augmentations of every method.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.runtime.boxes import turn, turn_boxes_back

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, order=True)
class D4:
    """One of the eight transforms that move pixels without mixing them.

    Example:
        >>> D4(turns=1).apply(np.array([[1, 2], [3, 4]])).tolist()
        [[2, 4], [1, 3]]

    Attributes:
        mirrored: whether left and right are exchanged, after turning.
        turns: quarter turns anticlockwise, 0 to 3, done first.
    """

    mirrored: bool = False
    turns: int = 0

    def __post_init__(self) -> None:
        """Reject more than three quarter turns.

        Raises:
            ValueError: `turns` is not 0, 1, 2 or 3.
        """
        if self.turns not in (0, 1, 2, 3):
            raise ValueError(f"turns={self.turns}: must be 0, 1, 2 or 3")

    @property
    def swaps_sides(self) -> bool:
        """Whether width and height are exchanged."""
        return self.turns % 2 == 1

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Transform an array (H, W) or (H, W, C)."""
        return turn(array, self.turns, mirrored=self.mirrored)

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """Transform an array (H, W) or (H, W, C) back."""
        straight = array[:, ::-1] if self.mirrored else array
        return np.ascontiguousarray(np.rot90(straight, -self.turns, axes=(0, 1)))

    def apply_tensor(self, images: Tensor) -> Tensor:
        """Transform a tensor (..., H, W).

        Built from transpose and flip alone, because ONNX has no operator for `torch.rot90`.
        """
        turned = images.transpose(-2, -1) if self.swaps_sides else images
        flips = {0: set(), 1: {-2}, 2: {-2, -1}, 3: {-1}}[self.turns]
        if self.mirrored:
            flips = flips ^ {-1}
        return turned.flip(sorted(flips)) if flips else turned

    def apply_points(
        self, points_xy: NDArray[np.float32], size_wh: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return where pixels (N, 2), x and y, of an image of a size lie afterwards."""
        width, height = size_wh
        x, y = np.asarray(points_xy)[:, 0], np.asarray(points_xy)[:, 1]
        for _ in range(self.turns):
            x, y = y, width - 1 - x
            width, height = height, width
        if self.mirrored:
            x = width - 1 - x
        return np.stack([x, y], axis=1).astype(np.float32)

    def undo_boxes(
        self, boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return boxes (N, 4) of the transformed image as boxes of the original.

        Args:
            boxes_xyxy: half-open pixels of the transformed image.
            size_wh: width and height of the original image.
        """
        return turn_boxes_back(boxes_xyxy, size_wh, self.turns, mirrored=self.mirrored)


IDENTITY = D4()
ALL = tuple(D4(mirrored, turns) for mirrored in (False, True) for turns in range(4))
"""All eight, the identity first."""


def allowed_transforms(*, flips: Collection[str], rotation: str) -> tuple[D4, ...]:
    """Return the transforms after which a good product still looks like a good product.

    Args:
        flips: of `horizontal` (left becomes right) and `vertical` (top becomes bottom).
        rotation: `none`, `half` (by 180 degrees) or `any`.

    Returns:
        Sorted, the identity first.
    """
    turns = {"any": (0, 1, 2, 3), "half": (0, 2)}.get(rotation, (0,))
    found = {D4(False, t) for t in turns}
    if "horizontal" in flips:
        found |= {D4(True, t) for t in turns}
    if "vertical" in flips:  # upside down is half a turn, mirrored
        found |= {D4(True, (t + 2) % 4) for t in turns}
    if {"horizontal", "vertical"} <= set(flips):
        found |= {D4(one.mirrored, (one.turns + 2) % 4) for one in found}
    return tuple(sorted(found))
