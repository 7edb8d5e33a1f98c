"""Check the content of `run.json`, which anybody may have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.run import Run

PARTS = ("train", "val", "test")
_KINDS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "settings": (dict,),
    "seed": (int,),
    "device": (str,),
    "data.name": (str,),
    "data.root": (str,),
    "data.layout": (str,),
    "data.fingerprint": (str,),
    "split.hash": (str,),
    "split.protocol": (str,),
    "split.fold": (int,),
    "split.train": (list,),
    "split.val": (list,),
    "split.test": (list,),
    "metadata": (dict,),
    "metadata.labels.kind": (str,),
    "metadata.labels.train": (int,),
}
"""The parts of `run.json` that a row and its heading are made of."""
EVALUATED = ("settings", "data.fingerprint", "split.train", "split.val", "split.test")
"""The parts that metrics depend on."""


def check_record(run: Run, names: Iterable[str] = tuple(_KINDS)) -> None:
    """Check that `run.json` has everything that a leaderboard needs.

    Args:
        run: the run.
        names: dotted paths of what is needed.

    Raises:
        RunError: something is missing or of the wrong kind.
    """
    record = run.record
    for name in names:
        found: Any = record
        for key in name.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        kinds = _KINDS[name]
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            raise RunError(
                f"{run.path}/run.json: damaged (no {name.split('.')[-1]}); make the run again"
            )
        part = name.removeprefix("split.")
        if part in PARTS and not all(isinstance(one, str) for one in record["split"][part]):
            raise RunError(f"{run.path}/run.json: damaged ({part}); make the run again")
