"""Classification networks: a backbone that gives one feature vector per image, a linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from toolkit.errors import ConfigError, did_you_mean
from toolkit.methods.resnet.pooling import PooledLayers, Standardise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Name of the torchvision network: its classifier, and the modules of its last block.
TORCHVISION: dict[str, tuple[str, tuple[str, ...]]] = {
    "resnet18": ("fc", ("layer4",)),
    "resnet34": ("fc", ("layer4",)),
    "resnet50": ("fc", ("layer4",)),
    "wide_resnet50_2": ("fc", ("layer4",)),
    "mobilenet_v2": ("classifier", ("features.17", "features.18")),
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A tail of layers with less than this share of the parameters is a normalisation, not a block.
_BLOCK_SHARE = 0.02


class Classifier(nn.Module):
    """A backbone with a linear head.

    Attributes:
        backbone: maps float32 (B, 3, H, W), normalised, to features (B, F).
        standardise: brings features to mean 0 and deviation 1, where they come from pooled layers.
        head: maps features to logits (B, K).
        last_block: names of the backbone's parameters that belong to its last block.
        mean, std: normalisation that the backbone wants, per channel of RGB in [0, 1].
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        features: int,
        classes: int,
        last_block: Iterable[str],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        pooled = isinstance(backbone, PooledLayers)
        self.standardise = Standardise(features) if pooled else nn.Identity()
        self.head = nn.Linear(features, classes)
        self.last_block = frozenset(last_block)
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to logits (B, K)."""
        return self.classify(self.backbone(images))

    def classify(self, features: Tensor) -> Tensor:
        """Map features (B, F) to logits (B, K)."""
        logits: Tensor = self.head(self.standardise(features))
        return logits

    @property
    def network(self) -> nn.Module:
        """The network whose tensors have the names of its authors."""
        return self.backbone.maps if isinstance(self.backbone, PooledLayers) else self.backbone

    def parameters_of(self, layers: str) -> dict[str, nn.Parameter]:
        """Return the parameters that learn under a setting of `train_layers`, by name."""
        wanted = {"head": (), "last-block": self.last_block, "all": None}[layers]
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith("head.")
            or wanted is None
            or name.removeprefix("backbone.") in wanted
        }

    def learn(self, layers: str, *, batch_norm: str) -> list[nn.Parameter]:
        """Prepare for training of some layers and return their parameters.

        Layers that do not learn behave as in use (no dropout, stored batch statistics).

        Args:
            layers: those that learn.
            batch_norm: `train` or `frozen`: whether batch statistics of learning layers are those
                of the batch, and are updated.
        """
        learning = self.parameters_of(layers)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in learning)
        self.eval()
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            frozen = batch_norm == "frozen" and isinstance(module, nn.modules.batchnorm._BatchNorm)
            # Modules without parameters (dropout) follow only when everything learns.
            follows = all(p.requires_grad for p in own) if own else layers == "all"
            # Not train(), which would reach the module's children: timm's batch normalisation
            # has its activation as a child.
            module.training = follows and not frozen
        return list(learning.values())


def build_classifier(
    network: str, classes: int, *, pooled_layers: Sequence[str] = ()
) -> Classifier:
    """Build a network with random weights and a head for so many classes.

    Args:
        network: name of the network.
        classes: number of classes.
        pooled_layers: names of modules whose maps become the features; the network's own pooled
            output if empty.

    Raises:
        ConfigError: neither this package nor timm knows the network, or it has no such layer.
    """
    plain = (_from_torchvision if network in TORCHVISION else _from_timm)(network, classes)
    if not pooled_layers:
        return plain
    backbone = PooledLayers(plain.backbone, pooled_layers, network=network)
    last = f"maps.{pooled_layers[-1]}."
    return Classifier(
        backbone,
        features=backbone.features,
        classes=classes,
        last_block=[n for n, _ in backbone.named_parameters() if n.startswith(last)],
        mean=plain.mean,
        std=plain.std,
    )


def _from_torchvision(network: str, classes: int) -> Classifier:
    import torchvision

    backbone: Any = getattr(torchvision.models, network)(weights=None)
    head, block = TORCHVISION[network]
    classifier = getattr(backbone, head)
    last: Any = classifier[-1] if isinstance(classifier, nn.Sequential) else classifier
    setattr(backbone, head, nn.Identity())
    names = [name for name, _ in backbone.named_parameters()]
    return Classifier(
        backbone,
        features=last.in_features,
        classes=classes,
        last_block=[n for n in names if n.startswith(tuple(f"{b}." for b in block))],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _from_timm(network: str, classes: int) -> Classifier:
    import timm
    from timm.data import resolve_model_data_config

    from toolkit.weights.lite0 import LITE0_MEAN, LITE0_NAME, LITE0_STD

    if not timm.is_model(network):
        known = [*TORCHVISION, *timm.list_models()]
        near = did_you_mean(network, known)
        hint = near if "did you mean" in near else "; see timm.list_models() for the names"
        raise ConfigError(f"network={network}: unknown{hint}")
    backbone: Any = timm.create_model(network, pretrained=False, num_classes=0)
    wanted = resolve_model_data_config(backbone)
    # timm's defaults for Lite0 belong to weights that were converted otherwise.
    lite0 = network == LITE0_NAME
    return Classifier(
        backbone,
        # what comes out of the last layer before the head (MobileNetV3: a layer after the pooling)
        features=getattr(backbone, "head_hidden_size", backbone.num_features),
        classes=classes,
        last_block=_last_block_of_timm(backbone),
        mean=LITE0_MEAN if lite0 else tuple(wanted["mean"]),
        std=LITE0_STD if lite0 else tuple(wanted["std"]),
    )


def _last_block_of_timm(backbone: Any) -> list[str]:
    """Return the parameters of the last of timm's coarse groups, and of what follows it."""
    from timm.models import group_parameters

    sizes = {name: p.numel() for name, p in backbone.named_parameters()}
    if not hasattr(backbone, "group_matcher"):
        return list(sizes)
    groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
    tail: list[str] = []
    for key in sorted(groups, reverse=True):
        tail += [name for name in groups[key] if name in sizes]
        if sum(sizes[name] for name in tail) >= _BLOCK_SHARE * sum(sizes.values()):
            break
    return tail
