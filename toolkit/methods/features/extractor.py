"""From an image to a grid of locally aware patch features (PatchCore, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import ConfigError, is_out_of_memory
from toolkit.methods.features.anomaly_map import resample

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from toolkit.methods.features.backbone import Backbone

_MULTIPLE = 32
"""Sides of rectangles are multiples of the coarsest stride, so that all layers cover one field."""
_SMALLEST = 128
"""Smallest side that small images are brought to, where `image_size` is not smaller."""
_SQUARE = 1.1
"""Aspect up to which images count as square."""


class FeatureExtractor:
    """Turns images into patch features, all layers on one grid.

    Args:
        backbone: the frozen network.
        image_size: side in pixels of a square input.
        input_hw: rows and columns that all images are resized to, of about as many pixels as the
            square; None: the square. See `input_shape`.
        patch_size: side of the neighbourhood, in cells, over which features are averaged; odd.
        stride: pixels of the resized image per cell of the grid; 0 takes the finest layer's grid.
        device: torch device.

    Attributes:
        grid_hw: rows and columns of the patch grid.
        layer_grids: rows and columns of each layer's own map.
        layer_channels: channels of each layer.
        channels: length of a patch feature, their sum.

    Raises:
        ConfigError: a layer's output is no feature map, or an argument does not fit.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int,
        input_hw: tuple[int, int] | None = None,
        patch_size: int = 3,
        stride: int = 0,
        device: str = "cpu",
    ) -> None:
        import torch

        if patch_size % 2 == 0 or patch_size < 1:
            raise ConfigError(f"patch_size={patch_size}: must be odd")
        if stride < 0:
            raise ConfigError(f"feature_stride={stride}: must be 0 (the finest layer's) or more")
        self.backbone = backbone
        self.image_size = image_size
        self.input_hw = input_hw or (image_size, image_size)
        self.patch_size = patch_size
        self.stride = stride
        self.device = device
        backbone.network.to(device)
        self._mean = torch.tensor(backbone.mean, device=device).mul(255).view(1, 3, 1, 1)
        self._std = torch.tensor(backbone.std, device=device).mul(255).view(1, 3, 1, 1)
        pixels = torch.arange(256.0, device=device).view(1, 1, 256, 1).expand(1, 3, 256, 1)
        table = self.normalised(pixels)[0, :, :, 0].T[None].contiguous()
        self._table: NDArray[np.float32] = table.cpu().numpy()
        maps = self.layer_maps(np.zeros((8, 8, 3), np.uint8))
        finest = max((m.shape[2:] for m in maps), key=lambda shape: int(shape[0] * shape[1]))
        self.grid_hw: tuple[int, int] = (int(finest[0]), int(finest[1]))
        if stride:
            height, width = self.input_hw
            self.grid_hw = (math.ceil(height / stride), math.ceil(width / stride))
        self.layer_grids = tuple((int(m.shape[2]), int(m.shape[3])) for m in maps)
        self.layer_channels = tuple(int(m.shape[1]) for m in maps)
        self.channels = sum(self.layer_channels)

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the patch features of one image.

        Args:
            image: uint8 array (H, W, 3), RGB.

        Returns:
            float32 tensor (rows * columns, channels), row by row.
        """
        import torch

        with torch.inference_mode():
            return self.aligned(self.layer_maps(image))

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that the features depend on, as JSON values."""
        return {
            "backbone": self.backbone.name,
            "layers": list(self.backbone.layers),
            "weights": self.backbone.weights.name,
            "fingerprint": self.backbone.fingerprint,
            "image_size": self.image_size,
            "input_hw": list(self.input_hw),
            "patch_size": self.patch_size,
            "feature_stride": self.stride,
        }

    def averaged(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Average each layer, float tensor (1, C, h, w), over its neighbourhoods."""
        from torch.nn.functional import avg_pool2d

        if self.patch_size == 1:
            return list(maps)
        side = self.patch_size
        return [avg_pool2d(one, side, 1, side // 2, count_include_pad=False) for one in maps]

    def aligned(self, maps: Sequence[Tensor]) -> Tensor:
        """Average each layer over its neighbourhoods and bring all layers to one grid.

        Args:
            maps: one float tensor (1, C, h, w) per layer.

        Returns:
            float tensor (rows * columns, channels), row by row.
        """
        import torch

        patches = torch.cat([resample(one, self.grid_hw) for one in self.averaged(maps)], dim=1)[0]
        return patches.permute(1, 2, 0).reshape(-1, self.channels)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels, float tensor (1, 3, H, W) from 0 to 255, normalised for the network."""
        return (pixels - self._mean) / self._std

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image to the network's input, `input_hw`."""
        from toolkit.runtime.steps import resize_averaged

        return resize_averaged(image, self.input_hw)

    def layer_maps(self, image: NDArray[np.uint8]) -> list[Tensor]:
        """Return the layers' outputs for an image (H, W, 3), float32 (1, C, h, w) each."""
        import cv2
        import torch

        height, width = self.input_hw
        # A pixel has 256 values only: a table gives the same values three times as fast as the
        # formula. Rows of pixels with three values each are channels-last already.
        normalised = cv2.LUT(self.resized(image), self._table)
        with torch.inference_mode():
            pixels = torch.from_numpy(normalised).to(self.device)[None].permute(0, 3, 1, 2)
            try:
                maps = self.backbone.feature_maps(pixels)
            except (AssertionError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                raise ConfigError(
                    f"backbone {self.backbone.name}: cannot take images of "
                    f"{width}x{height} pixels ({str(error).splitlines()[0]}); choose another "
                    "--image-size, or --keep-aspect false"
                ) from error
        for layer, found in zip(self.backbone.layers, maps, strict=True):
            if found.ndim != 4:
                raise ConfigError(
                    f"layer {layer} of {self.backbone.name}: gives {found.ndim - 1}-dimensional "
                    "output, not a feature map; use numbers of timm's stages, such as 5,8"
                )
            if found.shape[2] * width != found.shape[3] * height:
                raise ConfigError(
                    f"layer {layer} of {self.backbone.name}: gives {tuple(found.shape[1:])} for an "
                    f"image of {width}x{height} pixels, not channels, rows and columns; name "
                    "another with --layers"
                )
        return maps


def input_shape(sizes_hw: Sequence[tuple[int, int]], image_size: int) -> tuple[int, int]:
    """Choose one input for images of some sizes: their median aspect, and none is blown up.

    Squares of at least `image_size` pixels a side give that square. Others give a rectangle of as
    many pixels, whose sides are multiples of 32, or of as many as the images have.

    Example:
        >>> input_shape([(900, 900)], 320)
        (320, 320)
        >>> input_shape([(500, 1000)], 320)
        (224, 448)
        >>> input_shape([(150, 150)], 320)
        (160, 160)

    Args:
        sizes_hw: rows and columns of each image.
        image_size: side in pixels of a square input.
    """
    heights, widths = np.array(sizes_hw, float).T
    aspect = float(np.exp(np.median(np.log(widths / heights))))
    own = float(np.median(np.sqrt(widths * heights)))
    side = float(min(image_size, max(math.ceil(own / _MULTIPLE) * _MULTIPLE, _SMALLEST)))
    if max(aspect, 1 / aspect) < _SQUARE:
        return int(side), int(side)
    shape = (side / math.sqrt(aspect), side * math.sqrt(aspect))
    height, width = (max(round(n / _MULTIPLE), 1) * _MULTIPLE for n in shape)
    return height, width
