"""A split as Ultralytics reads it: checked first, then written as links and label files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.config import read_yaml
from toolkit.data.dataset_cards import symmetry_of
from toolkit.data.images import read_rgb, read_truth
from toolkit.data.regions import regions_of
from toolkit.data.splits import Split
from toolkit.errors import DataError
from toolkit.files import remove_leftovers, write_text
from toolkit.formats.convert import convert
from toolkit.formats.options import parse_backgrounds
from toolkit.formats.polygons import INSET, outline
from toolkit.inference.plot import save_picture
from toolkit.methods.yolo.copy_paste import pasted_images
from toolkit.methods.yolo.settings import YoloSettings, parse_degrees
from toolkit.methods.yolo.tiles import crops_with_defects, random_crop
from toolkit.runtime.boxes import resize_longest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_WORLD_CLASSES = 80
"""Ultralytics trains YOLO-World's head on at most this many classes."""

_DONE = "complete"


def check_split(split: Split, *, world: bool, background: str = "") -> None:
    """Refuse a split that a detector cannot be trained on.

    Args:
        split: the parts.
        world: whether class names are prompts, for which Ultralytics has rules of its own.
        background: a prompt that is none of the classes; empty if there is none.

    Raises:
        DataError: names what is missing and the fix.
    """
    root = split.dataset.root
    if not split.train:
        raise DataError(f"{root}: the training part is empty; choose another split or fold")
    if not split.val:
        raise DataError(
            f"{root}: the validation part is empty, and every epoch is evaluated on it; "
            "choose another split or fold"
        )
    for part, samples in (("training", split.train), ("validation", split.val)):
        if not any(sample.has_boxes for sample in samples):
            raise DataError(
                f"{root}: no boxes in the {part} part (protocol {split.protocol}); a detector "
                "needs defect images with masks or boxes there, as in the protocol supervised"
            )
    if not world:
        return
    names = (*split.dataset.region_classes, *filter(None, [background]))
    if background in split.dataset.region_classes:
        raise DataError(f"background_prompt={background}: is a defect type; choose another phrase")
    for name in names:
        if "/" in name:
            raise DataError(
                f"{root}: class '{name}' has a '/', which YOLO-World reads as two names; rename "
                "the class"
            )
    if len(names) > MAX_WORLD_CLASSES:
        raise DataError(
            f"{root}: {len(names)} classes, but YOLO-World trains on at most "
            f"{MAX_WORLD_CLASSES}; join some"
        )


def write_training_data(
    split: Split,
    out: Path,
    settings: YoloSettings,
    *,
    full_size: int = 0,
    seed: int,
    background: str = "",
) -> Path:
    """Write the training and validation parts in YOLO's layout, images resized once.

    The test part is left out, so that no training can reach it. Labels are outlines: a box that is
    turned with its corners gets loose, while the box of a turned outline is tight.

    Args:
        split: the parts.
        out: the folder, replaced if it is there.
        settings: `background_images`, `image_size` and `copy_paste_per_image` count.
        full_size: longest side of images that crops of `image_size` are added from, one around
            each defect and as many from good images; 0 for none.
        seed: of pasted defects and crops.
        background: name of a last class without boxes; none if empty.

    Returns:
        The `data.yaml`.

    Raises:
        DataError: an image or mask is wrong.
    """
    labelled = [s for s in (*split.train, *split.val) if s.is_defect]
    convert(
        split.dataset,
        to="yolo-seg" if all(s.has_mask for s in labelled) else "yolo",
        out=out,
        split=replace(split, test=()),
        images="link",
        backgrounds=parse_backgrounds(settings.background_images, option="background_images"),
        overwrite=True,
        strict=True,
    )
    data, done = out / "data.yaml", out / _DONE
    if done.is_file():
        return data
    for folder in out.glob("*/*"):
        remove_leftovers(folder)  # of a call that was killed while it resized or pasted
    for link in sorted(f for f in (out / "images").rglob("*.*") if not f.name.startswith(".")):
        image = read_rgb(link)
        small = resize_longest(image, settings.image_size)
        if small is not image:
            link.unlink()
            save_picture(small, link.with_suffix(".png"))
    classes, crops = split.dataset.region_classes, 0
    rng = np.random.default_rng(seed)
    for number, (image, mask, label) in enumerate(_pasted(split, settings, seed=seed)):
        index, stem = classes.index(label), f"pasted__{number:05d}"
        if full_size:
            crops += _add_crops(out, stem, image, mask, index, settings, full_size, rng)
        else:
            _add_image(out, stem, resize_longest(image, settings.image_size), mask, index)
    if full_size:
        for sample in (s for s in split.train if s.has_mask and len(s.region_labels) == 1):
            image, mask = read_rgb(sample.image), read_truth(sample)
            index, stem = classes.index(sample.region_labels[0]), f"crop__{crops:05d}"
            crops += _add_crops(out, stem, image, mask, index, settings, full_size, rng)
        good = [s for s in split.train if not s.is_defect]
        for number, i in enumerate(rng.permutation(len(good))[:crops]):
            large = resize_longest(read_rgb(good[i].image), full_size)
            crop = random_crop(large, settings.image_size, rng)
            _add_image(out, f"good__{number:05d}", crop, np.zeros(crop.shape[:2], np.bool_), 0)
    if background:
        import yaml

        content = read_yaml(data)
        content["names"][len(split.dataset.region_classes)] = background
        write_text(data, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
    done.touch()
    return data


def _pasted(
    split: Split, settings: YoloSettings, *, seed: int
) -> Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_], str]]:
    if not settings.copy_paste_per_image:
        return ()
    return pasted_images(
        split.train,
        per_image=settings.copy_paste_per_image,
        symmetry=symmetry_of(split.dataset.name),
        seed=seed,
    )


def _add_crops(
    out: Path,
    stem: str,
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    index: int,
    settings: YoloSettings,
    full_size: int,
    rng: np.random.Generator,
) -> int:
    """Add a crop around each defect of an image; return their number."""
    import cv2

    large = resize_longest(image, full_size)
    size_wh = (large.shape[1], large.shape[0])
    small = cv2.resize(mask.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) > 0
    crops = list(crops_with_defects(large, small, settings.image_size, rng))
    for number, (crop, shown) in enumerate(crops):
        _add_image(out, f"{stem}-{number}", crop, shown, index)
    return len(crops)


def _add_image(
    out: Path, stem: str, image: NDArray[np.uint8], mask: NDArray[np.bool_], index: int
) -> None:
    """Add a training image and the outlines of its defects, whose mask may be of another size."""
    save_picture(np.ascontiguousarray(image), out / f"images/train/{stem}.png")
    rows = _label_rows(mask, index=index)
    write_text(out / f"labels/train/{stem}.txt", "".join(f"{row}\n" for row in rows))


def _label_rows(mask: NDArray[np.bool_], *, index: int) -> list[str]:
    """Return `class x y x y …` of each region of a mask."""
    size_wh = np.array(mask.shape[::-1])
    points = [(outline(r, inset=INSET) / size_wh).ravel().tolist() for r in regions_of(mask)]
    return [" ".join([str(index), *(f"{v:.7f}" for v in values)]) for values in points]


def flips_and_rotation(settings: YoloSettings, *, dataset_name: str) -> dict[str, float]:
    """Return Ultralytics' `fliplr`, `flipud` and `degrees`.

    Args:
        settings: `flips` and `degrees` count.
        dataset_name: the data set whose card decides where a setting is `auto`.
    """
    symmetry = symmetry_of(dataset_name)
    flips: tuple[str, ...] = (settings.flips,)
    if settings.flips == "auto":
        flips = symmetry.flips
    elif settings.flips == "both":
        flips = ("horizontal", "vertical")
    degrees = parse_degrees(settings.degrees)
    if degrees == "auto":
        degrees = 180.0 if symmetry.rotation == "any" else 0.0
    return {
        "fliplr": 0.5 if "horizontal" in flips else 0.0,
        "flipud": 0.5 if "vertical" in flips else 0.0,
        "degrees": degrees,
    }
