"""Data cards: facts about a public data set that do not need the data.

A card is `datasets/<name>.yaml`: licence, archive, expected counts, symmetry of the product and
readable phrases for its defects. A card of the same name under `<home>/datasets/` wins, and a new
one there is found too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toolkit.data.types import GOOD, Dataset, file_sha256
from toolkit.errors import DataError, did_you_mean
from toolkit.home import datasets_dir, resource

MVTEC_CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)
_SHIPPED = (*MVTEC_CATEGORIES, "sample")
_FLIPS = ("horizontal", "vertical")
_ROTATIONS = ("none", "half", "any")


@dataclass(frozen=True)
class ArchiveSource:
    """Where the authors offer the data: address, size in bytes and SHA-256 where known."""

    url: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True)
class Counts:
    """Expected numbers of images."""

    train_good: int
    test_good: int
    test_defective: int


@dataclass(frozen=True)
class Symmetry:
    """Which views of the product look like another good product.

    Attributes:
        flips: of `horizontal` (left becomes right) and `vertical` (top becomes bottom).
        rotation: `none`, `half` (by 180 degrees) or `any`.
    """

    flips: tuple[str, ...]
    rotation: str


UNKNOWN = Symmetry(flips=("horizontal",), rotation="none")
"""Of a product without a card: upside down only where a card allows it."""


@dataclass(frozen=True)
class Card:
    """One data card.

    Attributes:
        name: name of the data set and of its folder.
        title: name to display.
        product: what the images show, as a noun phrase.
        source: page of the authors, or the command that makes the data.
        citation: the paper to cite.
        licence: short name of the licence to accept; None if there is none.
        licence_url: its text.
        archive: where to download it; None if it is not downloaded.
        counts: expected numbers of images.
        fingerprint: SHA-256 over the images, see `folder_fingerprint`.
        symmetry: which flips and rotations give a plausible product.
        defects: defect type (the name of its folder) to phrases, the best one first.
    """

    name: str
    title: str
    product: str
    source: str
    citation: str | None
    licence: str | None
    licence_url: str | None
    archive: ArchiveSource | None
    counts: Counts
    fingerprint: str | None
    symmetry: Symmetry
    defects: Mapping[str, tuple[str, ...]]


def card_names() -> tuple[str, ...]:
    """Return the names of all cards, sorted: the shipped ones and those under `<home>/datasets`."""
    return tuple(sorted({*_SHIPPED, *(path.stem for path in datasets_dir().glob("*.yaml"))}))


def symmetry_of(dataset_name: str) -> Symmetry:
    """Return the symmetry of the data card, `UNKNOWN` without a card."""
    return load_card(dataset_name).symmetry if dataset_name in card_names() else UNKNOWN


def load_card(name: str) -> Card:
    """Read one card.

    Raises:
        DataError: there is no such card, or it is malformed.
    """
    known = card_names()
    if name not in known:  # also keeps `../x` from leaving the folder
        raise DataError(f"data set {name!r}: no data card{did_you_mean(name, known)}")
    return read_card(resource(f"datasets/{name}.yaml"))


def read_card(path: Path) -> Card:
    """Read a card from a file.

    Raises:
        DataError: the file cannot be read, is no YAML, or lacks or misspells a field.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable data card ({reason})") from error
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path}: malformed data card ({reason}); see datasets/bottle.yaml"
        ) from error


def class_phrases(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Return phrases for each defect type of a data set, the best one first.

    Example:
        >>> class_phrases(load_dataset("mvtec/bottle"))["contamination"][0]
        'contamination inside a bottle'

    Raises:
        DataError: the data card is malformed.
    """
    return {name: prompts_for(dataset.name, name) for name in dataset.classes}


def prompts_for(dataset_name: str, defect_type: str) -> tuple[str, ...]:
    """Return phrases that describe a defect type, the best one first; never empty.

    Where there is no card, or the card does not know the type, the phrase is the type's own name
    with underscores as spaces. No phrase holds a `/`: YOLO-World reads it as a list of synonyms.

    Raises:
        DataError: the card is malformed.
    """
    if dataset_name in card_names():
        phrases = load_card(dataset_name).defects.get(defect_type)
        if phrases:
            return phrases
    return (re.sub(r"[_/\s]+", " ", defect_type).strip(),)


def mismatch(folder: Path, card: Card) -> str | None:
    """Compare a folder with what its card promises: counts, and the fingerprint where known.

    Returns:
        The first difference in words, or None if there is none.
    """
    test = {path.name: _count_png(path) for path in folder.glob("test/*")}
    good = test.pop(GOOD, 0)
    found = Counts(_count_png(folder / "train" / GOOD), good, sum(test.values()))
    for name, expected in vars(card.counts).items():
        if vars(found)[name] != expected:
            what = name.replace("_", "/")
            return f"{vars(found)[name]} images in {what}, expected {expected} for {card.name}"
    masks = sum(_count_png(path) for path in folder.glob("ground_truth/*"))
    if masks != card.counts.test_defective:
        return f"{masks} masks for {card.counts.test_defective} defective images"
    if card.fingerprint is not None and folder_fingerprint(folder) != card.fingerprint:
        return f"the images are not those of {card.name} (fingerprint differs)"
    return None


def folder_fingerprint(folder: Path) -> str:
    """Return one SHA-256 over all PNG files below a folder and their names.

    It is that of `find . -type f -name '*.png' | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    """
    whole = hashlib.sha256()
    names = {f"./{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*.png")}
    for name in sorted(names, key=str.encode):
        whole.update(f"{file_sha256(names[name])}  {name}\n".encode())
    return whole.hexdigest()


def _count_png(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.png"))


def _parse(raw: Any) -> Card:
    archive = raw["archive"]
    symmetry = Symmetry(tuple(raw["symmetry"]["flips"]), str(raw["symmetry"]["rotation"]))
    if not set(symmetry.flips) <= set(_FLIPS):
        raise ValueError(f"flips must be of {', '.join(_FLIPS)}")
    if symmetry.rotation not in _ROTATIONS:
        raise ValueError(f"rotation must be one of {', '.join(_ROTATIONS)}")
    return Card(
        name=str(raw["name"]),
        title=str(raw["title"]),
        product=str(raw["product"]),
        source=str(raw["source"]),
        citation=_text(raw["citation"]),
        licence=_text(raw["licence"]),
        licence_url=_text(raw["licence_url"]),
        archive=None
        if archive is None
        else ArchiveSource(str(archive["url"]), archive["size"], _text(archive["sha256"])),
        counts=Counts(**{key: int(value) for key, value in raw["counts"].items()}),
        fingerprint=_text(raw["fingerprint"]),
        symmetry=symmetry,
        defects={str(name): _phrases(name, phrases) for name, phrases in raw["defects"].items()},
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _phrases(defect_type: str, raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"{defect_type} needs a list of phrases")
    phrases = tuple(str(phrase).strip() for phrase in raw)
    if any("/" in phrase or not phrase for phrase in phrases):
        raise ValueError(f"a phrase of {defect_type} is empty or holds a '/'")
    return phrases
