"""A split as Ultralytics reads it: checked first, then written as links and label files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toolkit.data.cards import card_names, load_card, prompts_for
from toolkit.data.splits import Split
from toolkit.errors import DataError
from toolkit.formats.convert import convert
from toolkit.methods.yolo.settings import background_choice

MOST_WORLD_CLASSES = 80
"""Ultralytics caps the number of classes that YOLO-World's head trains on."""


def check_split(split: Split, *, world: bool) -> None:
    """Refuse a split that a detector cannot be trained on.

    Args:
        split: the parts.
        world: whether class names are prompts, for which Ultralytics has rules of its own.

    Raises:
        DataError: names what is missing and the mend.
    """
    root = split.dataset.root
    if not split.train:
        raise DataError(f"{root}: the training part is empty; choose another split or fold")
    if not split.val:
        raise DataError(
            f"{root}: the validation part is empty, and the best epoch is chosen on it; "
            "choose another split or fold"
        )
    for part, samples in (("training", split.train), ("validation", split.val)):
        if not any(sample.masks for sample in samples):
            raise DataError(
                f"{root}: no boxes in the {part} part (protocol {split.protocol}); a detector "
                "needs defect images with masks there, as in the protocol supervised"
            )
    if world:
        _check_names(split)


def _check_names(split: Split) -> None:
    names = split.dataset.classes
    for name in names:
        if "/" in name:
            raise DataError(
                f"{split.dataset.root}: class '{name}' has a '/', which YOLO-World reads as two "
                "names; rename the class"
            )
    if len(names) > MOST_WORLD_CLASSES:
        raise DataError(
            f"{split.dataset.root}: {len(names)} classes, but YOLO-World trains on at most "
            f"{MOST_WORLD_CLASSES}; join some"
        )


def write_training_data(split: Split, out: Path, *, backgrounds: str) -> Path:
    """Write the training and validation parts in YOLO's layout, images as links.

    The test part is left out: nothing that trains can reach it.

    Args:
        split: the parts.
        out: the folder, replaced if it is there.
        backgrounds: setting of that name.

    Returns:
        The `data.yaml`.

    Raises:
        DataError: an image or mask is wrong.
    """
    convert(
        split.dataset,
        to="yolo",
        out=out,
        split=replace(split, test=()),
        images="link",
        backgrounds=background_choice(backgrounds),
        overwrite=True,
        strict=True,
    )
    return out / "data.yaml"


def class_prompts(split: Split) -> dict[str, tuple[str, ...]]:
    """Return the phrases of each defect type, from the data card or from its name."""
    dataset = split.dataset
    return {name: prompts_for(dataset.name, name) for name in dataset.classes}


def flip_probabilities(flips: str, *, dataset_name: str) -> dict[str, float]:
    """Return Ultralytics' `fliplr` and `flipud`.

    Args:
        flips: setting of that name; `card` asks the data card, and where there is none only
            left-right flips are made.
        dataset_name: whose card.
    """
    if flips == "card":
        known = dataset_name in card_names()
        allowed = load_card(dataset_name).symmetry.flips if known else ("horizontal",)
    else:
        allowed = {"none": (), "both": ("horizontal", "vertical")}.get(flips, (flips,))
    return {
        "fliplr": 0.5 if "horizontal" in allowed else 0.0,
        "flipud": 0.5 if "vertical" in allowed else 0.0,
    }
