"""DeepSMOTE: SMOTE in the latent space of an encoder, decoded to images.

Dablain, Krawczyk and Chawla, DeepSMOTE: Fusing Deep Learning and SMOTE for Imbalanced Data,
arXiv 2105.02340. The paper's penalty takes images of one random class, encodes them, permutes the
embeddings, decodes, and compares with the images in their old order, so that the decoder learns
that images of a class are interchangeable. The code that its authors published shifts images and
embeddings alike, which is plain reconstruction of one class. `penalty` chooses one, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.imbalance.sampling import smote
from toolkit.progress import progress

Penalty = Literal["paper", "reconstruction", "none"]
PENALTIES: tuple[Penalty, ...] = ("paper", "reconstruction", "none")
# One step of a class of a single image would leave batch normalisation one value per channel.
_FEWEST_OF_A_CLASS = 2
_CODING_BATCH = 256
SIZES = (16, 32, 64, 128)
_SMALLEST_MAP = 4
_SLOPE = 0.2


class AutoEncoder(nn.Module):
    """Encode square images to a latent vector by way of a map of 4 x 4, and decode them.

    The layers are those of DCGAN (Radford et al. 2016), as in DeepSMOTE: convolutions of side 4 and
    stride 2, batch normalisation but not at the image, leaky ReLU in the encoder, ReLU in the
    decoder, tanh at the end; a linear layer before and after the latent vector.

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


@dataclass(frozen=True)
class DeepSmote:
    """Training of the encoder and decoder.

    The paper's values, except half its width, and a third of the batch of 100 in its code: for a
    few hundred images that would be three steps per epoch, after which the decoder returns the
    mean image.

    Attributes:
        epochs: passes over the images; the paper has 50 to 350.
        penalty: second term of the loss.
        num_neighbors: k of SMOTE.
        width: channels after the first convolution (64 in the paper).
        latent: length of the latent vector.
        batch: images per step.
        lr: learning rate of Adam.
    """

    epochs: int = 150
    penalty: Penalty = "paper"
    num_neighbors: int = 5
    width: int = 32
    latent: int = 300
    batch: int = 32
    lr: float = 2e-4


@dataclass(frozen=True)
class Trained:
    """A trained encoder and decoder.

    Attributes:
        model: in evaluation mode.
        num_neighbors: k of SMOTE.
        losses: mean of each epoch: reconstruction, penalty (0 where there is none).
    """

    model: AutoEncoder
    num_neighbors: int
    losses: tuple[tuple[float, float], ...]


def train_deepsmote(
    images: Tensor, labels: Tensor, how: DeepSmote, *, seed: int = 0, device: str = "cpu"
) -> Trained:
    """Train encoder and decoder on images of all classes.

    Args:
        images: uint8 (n, C, S, S).
        labels: int64 (n,); every class has at least two images.
        how: the training.
        seed: of all random numbers.
        device: torch device.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    size, channels = images.shape[-1], images.shape[1]
    model = AutoEncoder(size, channels=channels, width=how.width, latent=how.latent).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=how.lr)
    inputs = to_unit(images)
    present = torch.bincount(labels).nonzero().flatten()
    losses = []
    with progress("DeepSMOTE: training", how.epochs) as bar:
        for _ in range(how.epochs):
            sums = torch.zeros(2)
            batches = _batches(torch.randperm(len(inputs), generator=generator), how.batch)
            for chosen in batches:
                batch = inputs[chosen].to(device)
                reconstruction = F.mse_loss(model.decode(model.encode(batch)), batch)
                penalty = torch.zeros((), device=device)
                if how.penalty != "none":
                    label = present[torch.randint(len(present), (), generator=generator)]
                    own = torch.nonzero(labels == label).flatten()
                    own = own[torch.randperm(len(own), generator=generator)[: how.batch]]
                    penalty = penalty_of(model, inputs[own].to(device), how.penalty, generator)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(reconstruction + penalty)
                optimizer.step()
                sums += torch.stack([reconstruction.detach(), penalty.detach()]).cpu()
            mean = sums / len(batches)
            losses.append((float(mean[0]), float(mean[1])))
            bar.advance(reconstruction=losses[-1][0], penalty=losses[-1][1])
    return Trained(model.eval(), how.num_neighbors, tuple(losses))


def penalty_of(
    model: AutoEncoder, images: Tensor, penalty: Penalty, generator: torch.Generator
) -> Tensor:
    """Return the penalty term of one class.

    Args:
        model: the encoder and decoder.
        images: float (B, C, S, S) in [-1, 1], all of one class.
        penalty: `paper` permutes the embeddings only, `reconstruction` embeddings and images alike.
        generator: of the CPU, for the permutation.
    """
    order = torch.randperm(len(images), generator=generator)
    decoded = model.decode(model.encode(images)[order])
    return F.mse_loss(decoded, images if penalty == "paper" else images[order])


def synthesize(
    trained: Trained, images: Tensor, labels: Tensor, wanted: dict[int, int], *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Make new images of some classes.

    Args:
        trained: encoder and decoder.
        images: uint8 (n, C, S, S) that new ones are made from.
        labels: int64 (n,).
        wanted: number of new images by class; such a class has more images than neighbors.
        seed: of neighbors and places.

    Returns:
        uint8 (m, C, S, S) and int64 (m,), class by class.
    """
    generator = torch.Generator().manual_seed(seed)
    model = trained.model
    device = next(model.parameters()).device
    made = [images[:0]]
    of = [labels[:0]]
    with torch.no_grad():
        for label, count in sorted(wanted.items()):
            if count == 0:
                continue
            own = to_unit(images[labels == label])
            coded = torch.cat([model.encode(b.to(device)) for b in torch.split(own, _CODING_BATCH)])
            new = smote(coded, count, num_neighbors=trained.num_neighbors, generator=generator)
            made += [to_bytes(model.decode(b).cpu()) for b in torch.split(new, _CODING_BATCH)]
            of.append(torch.full((count,), label, dtype=labels.dtype))
    return torch.cat(made), torch.cat(of)


def missing_images(labels: Tensor, classes: int, *, per_class: int = 0) -> dict[int, int]:
    """Return how many images each class lacks.

    Args:
        labels: int64 (n,).
        classes: number of classes.
        per_class: wanted size of each class; 0 takes the size of the largest.
    """
    counts = torch.bincount(labels, minlength=classes).tolist()
    target = per_class or max(counts)
    return {label: target - count for label, count in enumerate(counts) if count < target}


def to_unit(images: Tensor) -> Tensor:
    """Map uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Map float in [-1, 1] to uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) < _FEWEST_OF_A_CLASS:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
