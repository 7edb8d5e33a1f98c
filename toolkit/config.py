"""Settings: a frozen dataclass per method, filled from YAML files and options, checked by name."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from toolkit.errors import ConfigError, did_you_mean
from toolkit.home import resource

T = TypeVar("T")

_BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "0"), False
)


def setting(default: Any, help: str, *, advanced: bool = False) -> Any:
    """Declare a field of a settings dataclass.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Settings:
        ...     epochs: int = setting(30, "Passes over the training images.")
        ...     momentum: float = setting(0.9, "Of stochastic gradient descent.", advanced=True)

    Args:
        default: the value without a config file or option; lists as tuples. A dict is copied.
        help: one line for `--help`.
        advanced: whether `--help` lists it under "Advanced", after the settings that most people
            change.
    """
    metadata = {"help": help, "advanced": advanced}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: missing, not YAML, not a mapping, or a key stands in it twice.
    """
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8; check the path") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply; write it with fewer levels") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(f"{path}: not valid YAML{where} ({problem}); correct it") from error
    except ValueError as error:  # such as the date 2026-99-99
        raise ConfigError(f"{path}: {error}; put the value in quotes") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: key {key!r} is not text; put it in quotes")
    return content


@lru_cache(maxsize=1)
def _loader() -> Any:
    """Return a safe YAML loader that refuses a key that stands twice in one mapping."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, int] = {}
            for key, _ in getattr(node, "value", ()) if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key '{key.value}' is already in line {lines[key.value]}",
                        problem_mark=key.start_mark,
                    )
                lines[key.value] = line
            return super().construct_mapping(node, deep=deep)

    return Loader


def find_config(name: str) -> Path:
    """Return the file of a config: a path, or a shipped name such as `yolo/default`.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name)
    with suppress(OSError, ValueError):  # too long, or no name of a file at all
        if path.is_file():
            return path
    relative = name.removeprefix("configs/").removesuffix(".yaml")
    try:
        return resource(f"configs/{relative}.yaml")
    except (ConfigError, OSError, ValueError):
        folder = resource("configs")
        known = [f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("*.yaml")]
        raise ConfigError(f"{name}: no such config{did_you_mean(relative, known)}") from None


def build_settings(cls: type[T], values: Mapping[str, Any], *, source: str) -> T:
    """Make a settings dataclass from plain values, converting text to each field's type.

    A class may have a static method `absorb(values)`, which moves values for an underlying library
    into the field that collects them.

    Args:
        cls: a dataclass whose fields all have defaults.
        values: by field name; text (from the command line) is converted.
        source: the file or option that the values come from, for the error message.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    absorb = getattr(cls, "absorb", None)
    try:
        values = absorb(values) if absorb is not None else values
        unknown = [key for key in values if key not in fields]
        if unknown:
            raise ValueError(f"unknown key '{unknown[0]}'{did_you_mean(unknown[0], fields)}")
        converted = {key: convert(value, fields[key], key) for key, value in values.items()}
        return cls(**converted)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def settings_dict(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain JSON values."""
    record = dataclasses.asdict(settings)
    return {key: list(v) if isinstance(v, tuple) else v for key, v in record.items()}


def parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    """Parse `key=value` words; dashes in keys count as underscores.

    Raises:
        ConfigError: a word without `=`.
    """
    values = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {pair}: expected key=value")
        values[key.strip().replace("-", "_")] = value.strip()
    return values


def convert(value: Any, wanted: Any, key: str) -> Any:
    """Convert one value to a field's type.

    Raises:
        ValueError: it does not fit; the message names the key, the value and the type.
    """
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(wanted)
        if type(None) in options and (value is None or value == "none"):
            return None
        return convert(value, next(o for o in options if o is not type(None)), key)
    if origin is typing.Literal:
        choices = {str(choice): choice for choice in typing.get_args(wanted)}
        if str(value) not in choices:  # as text, which is all that the command line has
            raise ValueError(f"{key}={value}: unknown{did_you_mean(str(value), choices)}")
        return choices[str(value)]
    if origin is tuple:
        return _convert_tuple(value, typing.get_args(wanted), key)
    if origin is dict:
        return _convert_mapping(value, key)
    return _convert_plain(value, wanted, key)


def _convert_tuple(value: Any, inner: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        items = [word.strip() for word in value.split(",")] if value.strip() else []
    else:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
    kinds = [inner[0]] * len(items) if inner[-1] is Ellipsis else list(inner)
    if len(kinds) != len(items):
        raise ValueError(f"{key}={value}: expected {len(kinds)} values, got {len(items)}")
    return tuple(convert(item, kind, key) for item, kind in zip(items, kinds, strict=True))


def _convert_mapping(value: Any, key: str) -> dict[str, Any]:
    """Take a mapping, or text that is one in YAML: `{a: 1, b: 2}`."""
    import yaml

    try:
        found = yaml.safe_load(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{key}={value}: expected a mapping, such as {{a: 1, b: 2}}")
    return found


def _convert_plain(value: Any, wanted: Any, key: str) -> Any:
    if wanted is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in _BOOLEANS:
            return _BOOLEANS[str(value).lower()]
    elif wanted is int and not isinstance(value, bool):
        number = _number(value)
        if isinstance(number, int):
            return number
        if number.is_integer():  # 1e3
            return int(number)
    elif wanted is float and not isinstance(value, bool):
        number = _number(value)
        # Infinity and integers of 400 digits fit neither JSON nor training.
        if abs(number) <= sys.float_info.max:
            return float(number)
    elif wanted is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{key}={value}: expected {getattr(wanted, '__name__', wanted)}")


def _number(value: Any) -> int | float:
    """Read a number, integers exactly (a seed may have more digits than a float)."""
    if isinstance(value, (int, float)):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except (TypeError, ValueError):
            continue
    return math.nan
