"""Classification networks: a backbone that maps an image to a feature vector, and a linear head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolkit.d4 import ALL, IDENTITY
from toolkit.errors import ConfigError, WeightsError
from toolkit.methods.features.backbone import (
    create_network,
    cut_network,
    load_network_weights,
)
from toolkit.weights.lite0 import LITE_NAMES
from toolkit.weights.registry import load as registry
from toolkit.weights.resolve import AUTO, ResolvedWeights

if TYPE_CHECKING:
    from toolkit.d4 import D4

_PROBE_SIDE = 64
# Features that vary less than this over the training images are not scaled up.
_SMALLEST_STD = 1e-4
# The last layers with less than this share of the parameters are a normalization, not a block.
_BLOCK_SHARE = 0.02


class PooledLayers(nn.Module):
    """A network that ends at its last wanted layer; its maps become averages and maxima.

    The average measures how much of an image shows something, the maximum whether any part does,
    which is how a small defect becomes visible.

    Args:
        maps: maps images (B, 3, H, W) to maps by layer name.
        layers: names of the layers, each with a map (B, C, h, w).

    Attributes:
        features: length of a feature vector, twice the sum of the layers' channels.

    Raises:
        ConfigError: the output of a layer is no map.
    """

    def __init__(self, maps: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.maps, self.layers = maps, tuple(layers)
        with torch.no_grad():
            found = self._maps_of(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        for layer, one in zip(layers, found, strict=True):
            if one.dim() != 4:
                raise ConfigError(f"pooled_layers={layer}: its output is no map; name another")
        self.features = 2 * sum(one.shape[1] for one in found)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to features (B, F)."""
        found = self._maps_of(images)
        return torch.cat([p for m in found for p in (m.mean((2, 3)), m.amax((2, 3)))], dim=1)

    def _maps_of(self, images: Tensor) -> list[Tensor]:
        found = self.maps(images)  # a list for numbered stages
        return [found[layer] for layer in self.layers] if isinstance(found, dict) else found


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation that were measured once.

    Args:
        features: length of a feature vector.
    """

    mean: Tensor
    std: Tensor
    measured: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))

    def measure(self, features: Tensor) -> None:
        """Take mean and standard deviation from features (n, F) of the training part."""
        std = features.std(dim=0, correction=0)
        self.mean.copy_(features.mean(dim=0))
        self.std.copy_(torch.where(std > _SMALLEST_STD, std, 1.0))
        self.measured.fill_(True)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, F) to standardized ones."""
        standard: Tensor = (features - self.mean) / self.std
        return standard


class ClassificationNetwork(nn.Module):
    """A backbone with a linear head.

    Attributes:
        backbone: maps float32 (B, 3, H, W), normalized, to features (B, F).
        standardize: brings pooled features to mean 0 and standard deviation 1; else the identity.
        head: maps features to logits (B, K).
        last_block: names of the backbone's parameters that belong to its last block.
        mean, std: normalization of RGB in [0, 1] that the backbone expects, per channel.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        features: int,
        classes: int,
        last_block: Iterable[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        pooled = isinstance(backbone, PooledLayers)
        self.standardize = Standardize(features) if pooled else nn.Identity()
        self.head = nn.Linear(features, classes)
        self.last_block = frozenset(last_block)
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to logits (B, K)."""
        return self.classify(self.backbone(images))

    def classify(self, features: Tensor) -> Tensor:
        """Map features (B, F) to logits (B, K)."""
        logits: Tensor = self.head(self.standardize(features))
        return logits

    def normalize(self, images: Tensor) -> Tensor:
        """Move float32 (B, 3, H, W) in [0, 1] to the network's device and normalize it."""
        device = self.head.weight.device
        mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, 3, 1, 1)
        normal: Tensor = (images.to(device) - mean) / std
        return normal

    def tta_logits(self, images: Tensor, transforms: Sequence[D4]) -> Tensor:
        """Return logits (B, K) of float32 images in [0, 1], averaged over transforms of them."""
        normal = self.normalize(images)
        return torch.stack([self(one.apply_tensor(normal)) for one in transforms]).mean(0)

    def parameters_of(self, layers: str) -> dict[str, nn.Parameter]:
        """Return the parameters that a value of `train_layers` trains, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith("head.")
            or layers == "all"
            or (layers == "last-block" and name.removeprefix("backbone.") in self.last_block)
        }

    def set_trainable(self, layers: str, *, batch_norm: str) -> list[nn.Parameter]:
        """Prepare some layers for training and return their parameters.

        All others behave as in use (no dropout, stored batch statistics).

        Args:
            layers: the layers to train.
            batch_norm: `frozen` keeps the stored batch statistics in trained layers too.
        """
        trainable = self.parameters_of(layers)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trainable)
        self.eval()
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            frozen = batch_norm == "frozen" and isinstance(module, nn.modules.batchnorm._BatchNorm)
            # Modules without parameters (dropout) follow only when all layers are trained.
            follows = all(p.requires_grad for p in own) if own else layers == "all"
            # Not train(), which would reach the module's children: timm's batch norm has its
            # activation as a child.
            module.training = follows and not frozen
        return list(trainable.values())


def tta_transforms(tta: bool) -> tuple[D4, ...]:
    """Return the transforms that a prediction is averaged over."""
    return ALL if tta else (IDENTITY,)


def anomaly_scores(logits: Tensor) -> Tensor:
    """Return the log-odds of a defect: logsumexp of the defect logits minus the logit of good.

    Args:
        logits: (B, K), `good` first.
    """
    return torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]


def pooled_by_default(model: Any, network: str) -> tuple[str, ...]:
    """Return the layers of the last two depths of a network; none where its family is unknown."""
    if network in LITE_NAMES:
        return ("blocks.4", "blocks.6")
    if hasattr(model, "layer3") and hasattr(model, "layer4"):  # ResNet
        return ("layer3", "layer4")
    return ()


def build_network(
    network: str, classes: int, *, pooled_layers: Sequence[str] = (), weights: str = "none"
) -> tuple[ClassificationNetwork, ResolvedWeights]:
    """Build a network with a new head.

    Example:
        >>> model, weights = build_network("resnet18", 4)
        >>> weights.name
        'none'

    Args:
        network: name of a network of torchvision or timm.
        classes: number of classes.
        pooled_layers: layers whose pooled maps are the features; the network's own pooled output if
            empty. `auto` is `pooled_by_default` for pretrained weights, else empty: features that
            are trained from the start need no depths.
        weights: the setting `weights`.

    Raises:
        ConfigError: unknown network or layer, or the network has no linear head.
        WeightsError: the weights cannot be had, or belong to another network.
    """
    whole, mean, std = create_network(network)
    resolved = _load_weights(whole, network, weights)
    if tuple(pooled_layers) == ("auto",):
        pooled_layers = () if resolved.name == "none" else pooled_by_default(whole, network)
    backbone: nn.Module = whole
    if pooled_layers:
        pooled = PooledLayers(cut_network(whole, network, tuple(pooled_layers)), pooled_layers)
        backbone, features = pooled, pooled.features
        names = [name for name, _ in pooled.named_parameters()]
        block = [n for n in names if n.startswith(f"maps.{pooled_layers[-1]}.")] or names
    else:
        features = _remove_head(whole, network)
        block = _last_block(whole)
    model = ClassificationNetwork(
        backbone, features=features, classes=classes, last_block=block, mean=mean, std=std
    )
    return model, resolved


def _load_weights(model: nn.Module, network: str, setting: str) -> ResolvedWeights:
    """Load what the setting names; `auto:NAME` is `auto` for another entry of the registry."""
    if not setting.startswith(f"{AUTO}:"):
        return load_network_weights(model, network, setting)
    name = setting.removeprefix(f"{AUTO}:")
    if name not in registry():
        raise WeightsError(f"weights={setting}: not in the registry; see: toolkit weights list")
    try:
        return load_network_weights(model, network, name)
    except WeightsError as error:
        return ResolvedWeights("none", f"from scratch: {name} out of reach", None, str(error))


def _remove_head(model: Any, network: str) -> int:
    """Replace the last linear layer by the identity; return the length of its input."""
    if hasattr(model, "reset_classifier"):  # timm
        model.reset_classifier(0)
        # MobileNetV3 has a layer between pooling and head.
        return int(getattr(model, "head_hidden_size", None) or model.num_features)
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ConfigError(f"network={network}: has no linear head to replace; choose another")
    parent, _, child = linear[-1].rpartition(".")
    features = int(model.get_submodule(linear[-1]).in_features)
    setattr(model.get_submodule(parent), child, nn.Identity())
    return features


def _last_block(model: Any) -> list[str]:
    """Return the names of the parameters of the last block, and of the layers after it."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    if hasattr(model, "layer4"):  # ResNet
        return [name for name in sizes if name.startswith("layer4.")]
    if hasattr(model, "group_matcher"):  # timm: the last coarse group, and all after it
        from timm.models import group_parameters

        groups = group_parameters(model, model.group_matcher(coarse=True))
    elif hasattr(model, "features"):  # torchvision: children of `features`
        groups = {}
        for name in sizes:
            head, _, rest = name.partition(".")
            key = int(rest.split(".")[0]) if head == "features" else len(model.features)
            groups.setdefault(key, []).append(name)
    else:
        return list(sizes)
    tail: list[str] = []
    for key in sorted(groups, reverse=True):
        tail += [name for name in groups[key] if name in sizes]
        if sum(sizes[name] for name in tail) >= _BLOCK_SHARE * sum(sizes.values()):
            break
    return tail
