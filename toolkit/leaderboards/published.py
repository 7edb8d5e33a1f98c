"""Results that others published, from the shipped file `configs/leaderboard/published.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config import read_yaml
from toolkit.errors import ConfigError, did_you_mean
from toolkit.home import resource
from toolkit.leaderboards.columns import KNOWN

FILE = "configs/leaderboard/published.yaml"
_WORDS = ("method", "data", "source")


@dataclass(frozen=True)
class Reference:
    """Results that others published, measured in their own way.

    Attributes:
        method: as its authors call it.
        data: the category, or the name of a mean over several, such as `mvtec`.
        values: by column name, as shares of 1.
        source: the publication.
        covers: the data sets beside which it is displayed.
    """

    method: str
    data: str
    values: Mapping[str, float]
    source: str
    covers: tuple[str, ...]


def published_references(path: Path | None = None) -> tuple[Reference, ...]:
    """Return all published results.

    Args:
        path: a YAML file in the format of the shipped one; the shipped one if None.

    Raises:
        ConfigError: an entry lacks its source or data, a column is unknown, or a value is not a
            percentage.
    """
    file = path or resource(FILE)
    content = read_yaml(file)
    raw, means = content.get("references"), content.get("means", {})
    if not isinstance(raw, list) or not isinstance(means, dict):
        raise ConfigError(f"{file}: no list 'references:', or 'means:' is no mapping")
    return tuple(_reference(one, means, file) for one in raw)


def _reference(raw: Any, means: Mapping[str, Any], file: Path) -> Reference:
    given = raw if isinstance(raw, Mapping) else {}
    missing = [word for word in _WORDS if not isinstance(given.get(word), str)]
    if missing:
        raise ConfigError(f"{file}: an entry has no '{missing[0]}:' ({raw}); add it")
    values = {}
    for name, value in raw.items():
        if name in _WORDS:
            continue
        if name not in KNOWN:
            raise ConfigError(
                f"{file}: {raw['method']}: unknown column {name}{did_you_mean(str(name), KNOWN)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise ConfigError(f"{file}: {raw['method']}: {name} is {value!r}; give it in percent")
        values[name] = round(value / 100, 6)
    return Reference(
        method=raw["method"],
        data=raw["data"],
        values=values,
        source=raw["source"],
        covers=tuple(map(str, means.get(raw["data"], [raw["data"]]))),
    )
