"""Names of methods and where they live; a module is imported when its method is used.

Third parties add theirs through the entry point group `toolkit.methods`
(`name = "package.module:Class"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from toolkit.config import build_settings
from toolkit.errors import ConfigError, did_you_mean
from toolkit.methods.base import Method
from toolkit.runs.run import Run

_BUILT_IN = {
    "classifier": "toolkit.methods.classifier.method:Classifier",
    "devnet": "toolkit.methods.scorers.devnet:DevNet",
    "padim": "toolkit.methods.scorers.padim:PaDiM",
    "patchcore": "toolkit.methods.scorers.patchcore:PatchCore",
    "patchcore+": "toolkit.methods.scorers.patchcore_plus:PatchCorePlus",
    "sam": "toolkit.methods.sam.method:Sam",
    "feature-autoencoder": "toolkit.methods.scorers.feature_autoencoder:FeatureAutoencoder",
    "yolo": "toolkit.methods.yolo.method:Yolo",
    "yolo-world": "toolkit.methods.yolo.world:YoloWorld",
}


def method_names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(_targets())


def method_class(name: str) -> type[Method[Any]]:
    """Import and return a method's class.

    Raises:
        ConfigError: no method of that name.
    """
    targets = _targets()
    if name not in targets:
        raise ConfigError(f"method {name}: unknown{did_you_mean(name, targets)}")
    module, _, attribute = targets[name].partition(":")
    found: type[Method[Any]] = getattr(import_module(module), attribute)
    return found


def make_method(name: str, settings: Mapping[str, Any], *, source: str) -> Method[Any]:
    """Make a method from plain settings.

    Raises:
        ConfigError: unknown method, key or value.
    """
    cls = method_class(name)
    return cls(build_settings(cls.Settings, settings, source=source))


def load_method(run: Run) -> Method[Any]:
    """Make the method that a run was made with, with the same settings."""
    return make_method(run.method, run.record["settings"], source=f"{run.path}/run.json")


def _targets() -> dict[str, str]:
    outside = {point.name: point.value for point in entry_points(group="toolkit.methods")}
    return {**outside, **_BUILT_IN}
