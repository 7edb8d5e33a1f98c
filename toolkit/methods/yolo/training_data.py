"""A split as Ultralytics reads it: checked first, then written as links and label files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.config import read_yaml
from toolkit.data.dataset_cards import Symmetry, card_names, load_card, prompts_for
from toolkit.data.images import read_rgb
from toolkit.data.regions import regions_of
from toolkit.data.splits import Split
from toolkit.errors import DataError
from toolkit.files import write_text
from toolkit.formats.convert import convert
from toolkit.formats.polygons import INSET, outline
from toolkit.inference.plot import save_picture
from toolkit.methods.yolo.copy_paste import Pasted, pasted_images
from toolkit.methods.yolo.settings import background_choice, rotation_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_WORLD_CLASSES = 80
"""Ultralytics caps the number of classes that YOLO-World's head trains on."""

_DONE = "complete"


def check_split(split: Split, *, world: bool, background: str = "") -> None:
    """Refuse a split that a detector cannot be trained on.

    Args:
        split: the parts.
        world: whether class names are prompts, for which Ultralytics has rules of its own.
        background: a prompt that is none of the classes, if there is one.

    Raises:
        DataError: names what is missing and the mend.
    """
    root = split.dataset.root
    if not split.train:
        raise DataError(f"{root}: the training part is empty; choose another split or fold")
    if not split.val:
        raise DataError(
            f"{root}: the validation part is empty, and every epoch is judged on it; "
            "choose another split or fold"
        )
    for part, samples in (("training", split.train), ("validation", split.val)):
        if not any(sample.masks for sample in samples):
            raise DataError(
                f"{root}: no boxes in the {part} part (protocol {split.protocol}); a detector "
                "needs defect images with masks there, as in the protocol supervised"
            )
    if world:
        _check_names(split, background)


def _check_names(split: Split, background: str) -> None:
    names = (*split.dataset.classes, *filter(None, [background]))
    if background in split.dataset.classes:
        raise DataError(f"background={background}: is a defect of the data; name something else")
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


def write_training_data(
    split: Split,
    out: Path,
    *,
    backgrounds: str,
    image_size: int,
    copy_paste: int,
    paste_beside: int,
    paste_least: int = 0,
    seed: int,
    background: str = "",
) -> Path:
    """Write the training and validation parts in YOLO's layout, images resized once.

    The test part is left out: nothing that trains can reach it. Labels are outlines, since a box
    that is turned with its corners gets loose, while the box of a turned outline is tight.

    Args:
        split: the parts.
        out: the folder, replaced if it is there.
        backgrounds: setting of that name.
        image_size: longest side in pixels; larger images are resized to it.
        copy_paste: setting of that name.
        paste_beside: setting of that name.
        paste_least: setting of that name; without `copy_paste` nothing is made.
        seed: decides what is pasted where.
        background: name of a last class that no box has; none if empty.

    Returns:
        The `data.yaml`.

    Raises:
        DataError: an image or mask is wrong.
    """
    convert(
        split.dataset,
        to="yolo-seg",
        out=out,
        split=replace(split, test=()),
        images="link",
        backgrounds=background_choice(backgrounds),
        overwrite=True,
        strict=True,
    )
    data, done = out / "data.yaml", out / _DONE
    if not done.is_file():  # new, or interrupted after the conversion
        for link in sorted((out / "images").rglob("*.*")):
            _shrink(link, longest=image_size)
        if copy_paste:
            defects = sum(bool(sample.masks) for sample in split.train)
            made = pasted_images(
                split.train,
                per_defect=max(copy_paste, math.ceil(paste_least / max(defects, 1))),
                beside=paste_beside,
                symmetry=symmetry_of(split.dataset.name),
                seed=seed,
            )
            _write_pasted(made, split.dataset.classes, out, image_size=image_size)
        if background:
            import yaml

            content = read_yaml(data)
            content["names"][len(split.dataset.classes)] = background
            write_text(data, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
        done.touch()
    return data


def shrunk(image: NDArray[np.uint8], *, longest: int) -> NDArray[np.uint8]:
    """Resize an image to a longest side by averaging over areas; a smaller one stays as it is."""
    import cv2

    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small


def _shrink(link: Path, *, longest: int) -> None:
    """Put a smaller copy in place of a link to an image; small images stay links."""
    image = read_rgb(link)
    small = shrunk(image, longest=longest)
    if small is not image:
        link.unlink()
        save_picture(small, link.with_suffix(".png"))


def _write_pasted(
    made: Iterable[Pasted], classes: Sequence[str], out: Path, *, image_size: int
) -> None:
    for number, pasted in enumerate(made):
        stem = f"pasted__{number:05d}"
        save_picture(shrunk(pasted.image, longest=image_size), out / f"images/train/{stem}.png")
        size = np.array(pasted.image.shape[1::-1])
        rows = []
        for mask, label in zip(pasted.masks, pasted.labels, strict=True):
            for region in regions_of(mask):
                points = (outline(region, inset=INSET) / size).ravel().tolist()
                rows.append(" ".join([str(classes.index(label)), *(f"{v:.7f}" for v in points)]))
        write_text(out / f"labels/train/{stem}.txt", "\n".join(rows) + "\n")


def symmetry_of(dataset_name: str) -> Symmetry:
    """Return what the data card says; without one, only left and right may be exchanged."""
    if dataset_name in card_names():
        return load_card(dataset_name).symmetry
    return Symmetry(flips=("horizontal",), rotation="none")


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
        allowed = symmetry_of(dataset_name).flips
    else:
        allowed = {"none": (), "both": ("horizontal", "vertical")}.get(flips, (flips,))
    return {
        "fliplr": 0.5 if "horizontal" in allowed else 0.0,
        "flipud": 0.5 if "vertical" in allowed else 0.0,
    }


def rotation_degrees(degrees: str, *, dataset_name: str) -> float:
    """Return Ultralytics' `degrees`: the largest rotation either way.

    Args:
        degrees: setting of that name.
        dataset_name: whose card.
    """
    choice = rotation_choice(degrees)
    if choice == "card":
        return 180.0 if symmetry_of(dataset_name).rotation == "any" else 0.0
    return choice
