"""Settings: a frozen dataclass per method, filled from YAML files and options, checked by name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from toolkit.errors import ConfigError, did_you_mean
from toolkit.home import resource

T = TypeVar("T")


def setting(default: Any, help: str) -> Any:
    """Declare a field of a settings dataclass: its default and one line that explains it."""
    return dataclasses.field(default=default, metadata={"help": help})


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: missing, not YAML, or not a mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ConfigError(f"{path}: not valid YAML{line}; mend it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines")
    return content


def find_config(name: str) -> Path:
    """Return the file of a config: a path, or a shipped name such as `yolo/default`.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    relative = name.removeprefix("configs/").removesuffix(".yaml")
    try:
        return resource(f"configs/{relative}.yaml")
    except ConfigError:
        folder = resource("configs")
        known = [f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("*.yaml")]
        raise ConfigError(f"{name}: no such config{did_you_mean(relative, known)}") from None


def build_settings(cls: type[T], values: Mapping[str, Any], *, source: str) -> T:
    """Make a settings dataclass from plain values, converting text to each field's type.

    Args:
        cls: a dataclass whose fields all have defaults.
        values: by field name; text (from the command line) is converted.
        source: the file or option that the values come from, for the error message.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise ConfigError(f"{source}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], fields)}")
    try:
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
        if not sign or not key:
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
        choices = typing.get_args(wanted)
        if value not in choices:
            raise ValueError(f"{key}={value}: unknown{did_you_mean(str(value), map(str, choices))}")
        return value
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            items = [items]
        inner = typing.get_args(wanted)[0]
        return tuple(convert(i.strip() if isinstance(i, str) else i, inner, key) for i in items)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{key}: expected a mapping, got {value!r}")
        return value
    return _convert_plain(value, wanted, key)


def _convert_plain(value: Any, wanted: Any, key: str) -> Any:
    if wanted is bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if isinstance(value, bool):
            return value
        if str(value).lower() in words:
            return words[str(value).lower()]
    elif wanted is int and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if number.is_integer():
            return int(number)
    elif wanted is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif wanted is str and isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"{key}={value}: expected {getattr(wanted, '__name__', wanted)}")
