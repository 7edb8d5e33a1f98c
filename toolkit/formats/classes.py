"""Which class a defect type, or a value in a mask, becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ConfigError, did_you_mean
from toolkit.formats.report import Problem

if TYPE_CHECKING:
    from toolkit.formats.options import Options

SINGLE = "defect"
"""Name of the one class of `--classes single`."""

# What readers of YAML 1.1 take for something else than text.
_YAML_WORDS = frozenset({"y", "yes", "n", "no", "true", "false", "on", "off", "null", "~"})


@dataclass(frozen=True)
class ClassMap:
    """Class names, and the index of each label.

    Attributes:
        names: class names in the order of their indices.
        index: from a label (a defect type or a name of `mask_values`) to the class index; None
            drops the label.
    """

    names: tuple[str, ...]
    index: Mapping[str, int | None]


def class_map(labels: Iterable[str], options: Options) -> ClassMap:
    """Return the classes for the given labels.

    Indices follow the order of the mapping if there is one, else the alphabet.

    Raises:
        ConfigError: a mapping names no class for a label, or a label that does not exist.
    """
    labels = sorted(set(labels if options.mask_values is None else options.mask_values.values()))
    if options.classes == "single":
        return ClassMap((SINGLE,), dict.fromkeys(labels, 0))
    if isinstance(options.classes, str):
        return ClassMap(tuple(labels), {name: i for i, name in enumerate(labels)})
    mapping = options.classes
    for label in labels:
        if label not in mapping:
            raise ConfigError(
                f"--classes: the mapping says nothing of {label!r}; add it, or map it to null"
            )
    for label in mapping:
        if label not in labels:
            raise ConfigError(f"--classes: no defect type {label!r}{did_you_mean(label, labels)}")
    names = tuple(dict.fromkeys(name for name in mapping.values() if name is not None))
    places = {name: i for i, name in enumerate(names)}
    return ClassMap(names, {k: None if v is None else places[v] for k, v in mapping.items()})


def suspicious_names(names: Iterable[str]) -> list[Problem]:
    """Name the classes that a YAML reader may take for a boolean, a number or nothing.

    This project's own files quote them; a tool that writes them anew may not.
    """
    return [
        Problem(
            "class name",
            f"class {name!r}: YAML reads it as no text when unquoted; rename it with --classes",
        )
        for name in names
        if name.strip().lower() in _YAML_WORDS or not name.strip() or _is_number(name)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_classes(text: str) -> str | dict[str, str | None]:
    """Understand `--classes`: a word, or a YAML file of `type: class`.

    Raises:
        ConfigError: the file cannot be read or is no such mapping.
    """
    if not text.endswith((".yaml", ".yml")):
        return text
    raw = _read_yaml(Path(text), option="--classes")
    if not all(isinstance(k, str) and (v is None or isinstance(v, str)) for k, v in raw.items()):
        raise ConfigError(f"{text}: every line must be `type: class`, both text; quote them")
    return dict(raw)


def read_mask_values(text: str) -> dict[int, str]:
    """Understand `--mask-values`: `1=scratch,2=dent`, or a YAML file of `value: class`.

    Raises:
        ConfigError: a value is no number above 0, or a name is missing.
    """
    if text.endswith((".yaml", ".yml")):
        pairs = [(str(k), v) for k, v in _read_yaml(Path(text), option="--mask-values").items()]
    else:
        pairs = [(k, v) for k, _, v in (pair.partition("=") for pair in text.split(","))]
    values: dict[int, str] = {}
    for key, name in pairs:
        if not (key.strip().isdigit() and int(key) > 0 and isinstance(name, str) and name.strip()):
            raise ConfigError(
                f"--mask-values {text}: write value=class with values above 0, such as 1=scratch"
            )
        values[int(key)] = name.strip()
    return values


def _read_yaml(path: Path, *, option: str) -> dict[Any, Any]:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{option} {path}: cannot be read ({reason})") from error
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{option} {path}: not a mapping; write one `key: class` a line")
    return raw
