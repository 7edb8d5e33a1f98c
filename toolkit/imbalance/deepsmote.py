"""DeepSMOTE: SMOTE in the latent space of an encoder, decoded to images.

Dablain, Krawczyk and Chawla, DeepSMOTE: Fusing Deep Learning and SMOTE for Imbalanced Data,
arXiv 2105.02340. The paper's penalty takes images of one random class, encodes them, permutes the
embeddings, decodes, and compares with the images in their old order, so that the decoder learns
that classes are interchangeable within. The code that its authors published shifts images and
embeddings alike, which is plain reconstruction of one class. Both can be had, and neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.imbalance.deepsmote_network import AutoEncoder
from toolkit.imbalance.smote import smote
from toolkit.progress import progress

Penalty = Literal["paper", "reconstruction", "none"]
PENALTIES: tuple[Penalty, ...] = ("paper", "reconstruction", "none")
# One step of a class of a single image would leave batch normalisation one value per channel.
_FEWEST_OF_A_CLASS = 2
_CODING_BATCH = 256


@dataclass(frozen=True)
class DeepSmote:
    """How encoder and decoder are trained.

    The paper's values, but for half its width, and for a third of the batch of 100 in its code: of
    a few hundred images that would make three steps per epoch, and the decoder would know no more
    than the mean image.

    Attributes:
        epochs: passes over the images; the paper has 50 to 350.
        penalty: second term of the loss.
        neighbours: k of SMOTE.
        width: channels after the first convolution (64 in the paper).
        latent: length of the latent vector.
        batch: images per step.
        lr: learning rate of Adam.
    """

    epochs: int = 150
    penalty: Penalty = "paper"
    neighbours: int = 5
    width: int = 32
    latent: int = 300
    batch: int = 32
    lr: float = 2e-4


@dataclass(frozen=True)
class Trained:
    """A trained encoder and decoder.

    Attributes:
        model: in evaluation mode.
        losses: mean of each epoch: reconstruction, penalty (0 where there is none).
    """

    model: AutoEncoder
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
    return Trained(model.eval(), tuple(losses))


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


def synthesise(
    trained: Trained,
    images: Tensor,
    labels: Tensor,
    wanted: dict[int, int],
    *,
    neighbours: int,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Make new images of some classes.

    Args:
        trained: encoder and decoder.
        images: uint8 (n, C, S, S) that new ones are made from.
        labels: int64 (n,).
        wanted: number of new images by class; such a class has more images than neighbours.
        neighbours: k of SMOTE.
        seed: of neighbours and places.

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
            new = smote(coded, count, neighbours=neighbours, generator=generator)
            made += [to_bytes(model.decode(b).cpu()) for b in torch.split(new, _CODING_BATCH)]
            of.append(torch.full((count,), label, dtype=labels.dtype))
    return torch.cat(made), torch.cat(of)


def missing_images(labels: Tensor, classes: int, *, per_class: int = 0) -> dict[int, int]:
    """Return how many images each class lacks.

    Args:
        labels: int64 (n,).
        classes: number of classes.
        per_class: what each class is to have; 0 takes the size of the largest.
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
