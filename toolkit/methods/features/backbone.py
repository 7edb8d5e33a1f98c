"""Networks of timm and torchvision with pretrained weights, and their intermediate feature maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.errors import ConfigError, WeightsError, did_you_mean
from toolkit.weights.checkpoint import load_state_dict, tensors_sha256
from toolkit.weights.lite0 import LITE0_MEAN, LITE0_NAME, LITE0_STD, LITE_NAMES, to_timm_names
from toolkit.weights.registry import load as registry
from toolkit.weights.resolve import AUTO, PRETRAINED, ResolvedWeights, resolve_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

RGB = tuple[float, float, float]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DEFAULT_LAYERS = {LITE0_NAME: ("blocks.1", "blocks.2", "blocks.4")}
_DEFAULT_STRIDES = (8, 16)  # as layer2 and layer3 of a ResNet


@dataclass(frozen=True)
class Backbone:
    """A frozen network that ends at the last of its feature layers.

    Attributes:
        name: architecture, as timm or torchvision calls it.
        layers: names of the layers whose outputs are the features, or numbers of timm's stages.
        weights: where its weights come from.
        fingerprint: twelve digits of a hash over the network's tensors.
        mean, std: per channel, of pixels in the range 0 to 1.
        network: eval mode; (B, 3, H, W) float32 to one (B, C, h, w) tensor per layer.
    """

    name: str
    layers: tuple[str, ...]
    weights: ResolvedWeights
    fingerprint: str
    mean: RGB
    std: RGB
    network: nn.Module

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return one (B, C, h, w) map per layer, in the order of `layers`."""
        maps = self.network(images)
        if isinstance(maps, dict):  # in the network's order
            maps = [maps[layer] for layer in self.layers]
        height, width = images.shape[2:]
        return [_channels_first(one, height, width) for one in maps]


def build_backbone(
    name: str, *, weights: str = PRETRAINED, layers: Sequence[str] = (), seed: int = 0
) -> Backbone:
    """Build a frozen network with its weights that ends at the last wanted layer.

    Batch norms are folded into the convolutions before them and tensors are laid out channels-last:
    on a CPU that is two to three times as fast and differs by rounding only.

    Example:
        >>> import torch
        >>> backbone = build_backbone("resnet18", weights="none", layers=("layer2",))
        >>> [tuple(one.shape) for one in backbone.feature_maps(torch.zeros(1, 3, 64, 64))]
        [(1, 128, 8, 8)]

    Args:
        name: a torchvision classification network, or any of timm's.
        weights: see `load_network_weights`.
        layers: names of modules (`layer2`), or numbers of timm's stages (`2`), which is the way for
            transformers; the default of the family if empty.
        seed: of random weights, so that a later process builds the same network.

    Raises:
        ConfigError: unknown network or layer.
        WeightsError: the weights cannot be had or do not fit.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, mean, std = create_network(name)
    chosen = tuple(layers) or default_layers(name, model)
    resolved = load_network_weights(model, name, weights)
    with torch.no_grad():
        network = cut_network(model, name, chosen).eval().requires_grad_(False)
        if isinstance(network, torch.fx.GraphModule):
            fold_batch_norms(network)
        network = network.to(memory_format=torch.channels_last)
    fingerprint = tensors_sha256(network.state_dict())[:12]
    return Backbone(name, chosen, resolved, fingerprint, mean, std, network)


def create_network(name: str) -> tuple[nn.Module, RGB, RGB]:
    """Create a network with random weights and its ImageNet head.

    Returns:
        The network, and mean and standard deviation per channel that it wants pixels (0 to 1)
        normalised with.

    Raises:
        ConfigError: neither torchvision nor timm has the network.
    """
    import timm
    import torchvision

    if name in torchvision.models.list_models(module=torchvision.models):
        return torchvision.models.get_model(name, weights=None), _IMAGENET_MEAN, _IMAGENET_STD
    if not timm.is_model(name):
        known = [*timm.list_models(), *torchvision.models.list_models(module=torchvision.models)]
        hint = _nearest(name, known) or "; see timm.list_models()"
        raise ConfigError(f"network {name}: unknown to timm and torchvision{hint}")
    model = timm.create_model(name, pretrained=False, **_any_size(name))
    if name in LITE_NAMES:  # timm's own values belong to weights that were converted otherwise
        return model, LITE0_MEAN, LITE0_STD
    config = model.pretrained_cfg
    return model, tuple(config["mean"]), tuple(config["std"])


def load_network_weights(model: nn.Module, name: str, setting: str = PRETRAINED) -> ResolvedWeights:
    """Fill a network with the weights that a `weights` setting names.

    Networks that the registry of weights does not have are fetched by timm, where it has them. A
    network whose head was removed or has other classes takes everything but the head.

    Example:
        >>> model, mean, std = create_network("resnet18")
        >>> load_network_weights(model, "resnet18", "none").name
        'none'

    Args:
        model: filled in place.
        name: architecture, as timm or torchvision calls it.
        setting: `pretrained`, `auto`, `none`, a name of the registry, or a file; see
            `toolkit.weights.resolve`.

    Returns:
        What the weights are and where they came from.

    Raises:
        WeightsError: the weights cannot be had or belong to another network.
    """
    names = [entry for entry in (name, f"{name}-v1") if entry in registry()]
    if setting in (PRETRAINED, AUTO) and not names and hasattr(model, "pretrained_cfg"):
        return _fetch_from_timm(model, name, setting)
    resolved = resolve_weights(setting, names, network=name)
    if resolved.path is not None:
        tensors = load_state_dict(resolved.path)
        if name in LITE_NAMES:
            tensors = to_timm_names(tensors, name, source=str(resolved.path))
        _fill(model, tensors, str(resolved.path))
    return resolved


def default_layers(name: str, model: nn.Module) -> tuple[str, ...]:
    """Return the layers of a network that serve as mid-level features.

    Raises:
        ConfigError: none are known for its family.
    """
    if name in _DEFAULT_LAYERS:
        return _DEFAULT_LAYERS[name]
    if hasattr(model, "layer2") and hasattr(model, "layer3"):
        return ("layer2", "layer3")
    info = getattr(model, "feature_info", None)
    reductions = [stage.get("reduction") for stage in getattr(info, "info", info) or []]
    stages = [str(i) for i, reduction in enumerate(reductions) if reduction in _DEFAULT_STRIDES]
    if len(reductions) >= 3 and len(set(reductions)) == 1:
        stages = [str(i) for i in range(len(reductions))]  # a transformer, whatever its patch size
    if not stages:
        raise ConfigError(f"backbone {name}: has no default layers; name some with --layers")
    # All stages of a transformer have one stride: two from the middle serve as mid-level features.
    return tuple(stages) if len(stages) <= 3 else (stages[len(stages) // 2], stages[-3])


def cut_network(model: nn.Module, name: str, layers: Sequence[str]) -> nn.Module:
    """Return the part of a network up to its last wanted layer, which returns the layers' outputs.

    Args:
        model: of `create_network`, with its weights.
        name: its architecture.
        layers: names of modules, or numbers of timm's stages.

    Returns:
        A module from images to a dict by layer, or a list for numbered stages.

    Raises:
        ConfigError: the network has no such layer.
    """
    if all(layer.isdigit() for layer in layers):
        return _timm_stages(model, name, [int(layer) for layer in layers])
    known = [module for module, _ in model.named_modules() if module]
    for layer in layers:
        if layer not in known:
            hint = _nearest(layer, known) or "; see the names of its modules"
            raise ConfigError(f"layer {layer}: {name} has no such module{hint}")
    from timm.models import create_feature_extractor

    network: nn.Module = create_feature_extractor(model.eval(), list(layers))
    return network


def fold_batch_norms(graph: Any) -> int:
    """Fold each batch norm into the convolution before it, in place; return how many were folded.

    timm's batch norms carry their activation, which takes their place.

    Args:
        graph: a `torch.fx.GraphModule` in eval mode.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    modules = dict(graph.named_modules())
    folded = 0
    for node in graph.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1:
            continue
        norm, convolution = modules[node.target], modules[before.target]
        if not isinstance(convolution, nn.Conv2d):
            continue
        _replace(graph, before.target, fuse_conv_bn_eval(convolution, norm))
        _replace(graph, node.target, getattr(norm, "act", nn.Identity()))
        folded += 1
    graph.recompile()
    return folded


def _replace(graph: Any, target: str, module: nn.Module) -> None:
    parent, _, child = target.rpartition(".")
    setattr(graph.get_submodule(parent), child, module)


def _channels_first(one: Tensor, height: int, width: int) -> Tensor:
    # Swin's maps are (B, h, w, C): axes 1 and 2 have the image's aspect, 2 and 3 have not.
    if one.ndim != 4 or one.shape[2] * width == one.shape[3] * height:
        return one
    return one.permute(0, 3, 1, 2) if one.shape[1] * width == one.shape[2] * height else one


def _any_size(name: str) -> dict[str, bool]:
    # Plain vision transformers are bound to one image size by default.
    return {"dynamic_img_size": True} if name.startswith(("vit_", "deit")) else {}


def _nearest(name: str, known: Sequence[str]) -> str:
    # A list of a thousand names helps no one: only the nearest is named.
    hint = did_you_mean(name, known)
    return hint if "did you mean" in hint else ""


def _timm_stages(model: nn.Module, name: str, stages: Sequence[int]) -> nn.Module:
    import timm

    named = f"layers {','.join(map(str, stages))}"
    if not timm.is_model(name) or not hasattr(model, "pretrained_cfg"):
        raise ConfigError(f"{named}: name modules of {name} instead")
    try:
        cut: nn.Module = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=stages, **_any_size(name)
        )
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{named}: {name} has no such stages ({error})") from error
    state = model.state_dict()
    wanted = {key: state.get(key.removeprefix("model.")) for key in cut.state_dict()}
    if any(tensor is None for tensor in wanted.values()):
        raise ConfigError(f"{named}: name modules of {name} instead of numbers")
    cut.load_state_dict(wanted)
    return cut


def _fetch_from_timm(model: nn.Module, name: str, setting: str) -> ResolvedWeights:
    import timm
    from timm.models import load_pretrained

    try:
        load_pretrained(model, num_classes=getattr(model, "num_classes", 1000), in_chans=3)
    except (OSError, RuntimeError, ValueError) as error:
        first_line = (str(error).splitlines() or ["no reason given"])[0]
        reason = f"{name}: timm {timm.__version__} cannot fetch its weights ({first_line})"
        if setting == AUTO:
            return ResolvedWeights(
                "none", "from scratch: pretrained weights out of reach", None, reason
            )
        advice = "give a file with --weights FILE, or --weights none"
        raise WeightsError(f"{reason}; {advice}") from error
    config: Any = model.pretrained_cfg
    return ResolvedWeights(name, f"timm, {config.get('hf_hub_id') or config.get('url')}")


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: str) -> None:
    own = model.state_dict()
    unfit = [k for k, v in own.items() if k not in tensors or tensors[k].shape != v.shape]
    body = [k for k in unfit if not k.startswith(("fc.", "classifier.", "head."))]
    if body:
        raise WeightsError(
            f"{path}: has no {body[0]} as this network's; take a file of the same network"
        )
    fitting = {k: v for k, v in tensors.items() if k in own and k not in unfit}
    model.load_state_dict(fitting, strict=False, assign=True)
