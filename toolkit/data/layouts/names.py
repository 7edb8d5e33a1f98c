"""What the names of folders say: a part, a class, or only a place such as a day or a camera."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from toolkit.data.types import GOOD, Sample

VAL = "val"
PARTS = {
    "train": "train", "training": "train", "val": VAL, "valid": VAL, "validation": VAL,
    "test": "test", "testing": "test",
}  # fmt: skip
_GOOD = frozenset({
    "good", "ok", "okay", "normal", "pass", "passed", "io", "gut", "intact", "healthy", "clean",
    "negative", "defect_free", "no_defect", "non_defective", "nondefective",
})  # fmt: skip
_BAD = frozenset({
    "bad", "nok", "not_ok", "ng", "nio", "n_i_o", "schlecht", "defect", "defects", "defective",
    "anomaly", "anomalies", "anomalous", "abnormal", "fail", "failed", "faulty", "reject",
    "rejected", "damaged", "positive",
})  # fmt: skip
_PLACE = re.compile(
    r"\d[\d._T-]*|(19|20)\d\d\D.*|(cam|camera|view|station|day|shift|batch|lot|week|session|run)"
    r"[-_ ]?\w{0,3}",
    re.IGNORECASE,
)


def is_good(name: str) -> bool:
    """Whether a folder of this name holds good images, such as `good`, `OK` or `Normal`."""
    return _plain(name) in _GOOD


def is_bad(name: str) -> bool:
    """Whether a folder of this name holds defects of any type, such as `bad`, `NG` or `anomaly`."""
    return _plain(name) in _BAD


def is_place(name: str) -> bool:
    """Whether a folder is named after a day, a number or a camera, and so names no class."""
    return _PLACE.fullmatch(name) is not None


def split_part(folders: Iterable[str]) -> tuple[str, list[str]]:
    """Return the part that the first folder names (else an empty text), and the other folders."""
    rest = list(folders)
    if rest and rest[0].lower() in PARTS:
        return PARTS[rest[0].lower()], rest[1:]
    return "", rest


def label_of(folders: list[str]) -> str | None:
    """Return the label that an image's folders name; None if they name none.

    A folder of good images counts wherever it is. A folder of defects may hold one per type. Days
    and cameras are passed over.

    Example:
        >>> label_of(["2026-05-01", "OK"]), label_of(["bad", "dent"]), label_of(["NG", "cam1"])
        ('good', 'dent', 'NG')
    """
    if any(map(is_good, folders)):
        return GOOD
    named = [name for name in folders if not is_place(name)]
    bad = next((i for i, name in enumerate(named) if is_bad(name)), None)
    if bad is not None:
        return (named[bad + 1 :] or [named[bad]])[0]
    return named[0] if named else None


def with_parts(samples: Iterable[Sample]) -> list[Sample]:
    """Return samples whose part is one of `Sample.part`.

    `val` counts as `train`, since the split decides what validates; where nothing tests, it tests.
    An image without a part tests, which is what splits deal out.
    """
    found = list(samples)
    val = "train" if any(s.part in ("test", "") for s in found) else "test"
    part = {"train": "train", VAL: val, "test": "test", "": "test"}
    return [replace(s, part=part[s.part]) for s in found]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
