"""Encoder and decoder of DeepSMOTE, in the manner of DCGAN, for square images of any channels."""

from __future__ import annotations

from torch import Tensor, nn

SIZES = (16, 32, 64, 128)
_SMALLEST_MAP = 4
_SLOPE = 0.2


class AutoEncoder(nn.Module):
    """Halves the image to a map of 4 x 4 and a latent vector, and the way back.

    The layers are those of DCGAN (Radford et al. 2016), as in DeepSMOTE: convolutions of side 4 and
    stride 2, batch normalisation but not at the image, leaky ReLU on the way down, ReLU on the way
    up, tanh at the end; a linear layer before and after the latent vector.

    Args:
        size: side of the images, one of `SIZES`.
        channels: of the images.
        width: channels after the first convolution; doubled with each halving.
        latent: length of the latent vector.
    """

    def __init__(self, size: int, *, channels: int, width: int, latent: int) -> None:
        super().__init__()
        halvings = (size // _SMALLEST_MAP).bit_length() - 1
        widths = [width * 2**i for i in range(halvings)]
        down: list[nn.Module] = []
        before = channels
        for i, wide in enumerate(widths):
            down.append(nn.Conv2d(before, wide, 4, 2, 1, bias=i == 0))
            if i:
                down.append(nn.BatchNorm2d(wide))
            down.append(nn.LeakyReLU(_SLOPE))
            before = wide
        flat = widths[-1] * _SMALLEST_MAP**2
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, latent))
        up: list[nn.Module] = [
            nn.Linear(latent, flat),
            nn.Unflatten(1, (widths[-1], _SMALLEST_MAP, _SMALLEST_MAP)),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        ]
        for wide, narrow in zip(widths[::-1], widths[-2::-1], strict=False):
            up += [
                nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(),
            ]
        up += [nn.ConvTranspose2d(widths[0], channels, 4, 2, 1), nn.Tanh()]
        self.decoder = nn.Sequential(*up)

    def encode(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) in [-1, 1] to latent vectors (B, L)."""
        latent: Tensor = self.encoder(images)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Map latent vectors (B, L) to images (B, C, S, S) in [-1, 1]."""
        images: Tensor = self.decoder(latent)
        return images
