"""What a conversion may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from toolkit.errors import ConfigError

Images = Literal["link", "hardlink", "copy"]
Backgrounds = int | float | Literal["all"]


@dataclass(frozen=True)
class Options:
    """Settings of a conversion, beside where from and where to.

    Attributes:
        images: how an image comes into the output: symbolic link, hard link or copy.
        backgrounds: good images in the training part: how many, which share of the training part
            (a float in [0, 1)), or all.
        connectivity: 8 (diagonal neighbours touch) or 4.
        min_area: regions of fewer pixels are dropped, and counted as such.
        merge_distance: regions of one class are joined where their nearest pixels are at most this
            far apart (Euclidean, between pixel centres); 0 joins nothing.
        classes: `defect-type`, `single`, or a mapping from defect type to class name, where None
            drops the type.
        mask_values: class name of each mask value, for masks that hold class indices.
        image_size: longest side in pixels that images and geometry are resized to.
        segmentation: how `coco` writes masks: exact run lengths or polygons.
        points: positive and as many negative point prompts per region (`sam`).
        box_jitter: standard deviation of the jittered prompt box, as a share of the side (`sam`).
        seed: of everything that is drawn.
    """

    images: Images = "link"
    backgrounds: Backgrounds = "all"
    connectivity: int = 8
    min_area: int = 1
    merge_distance: float = 0.0
    classes: str | Mapping[str, str | None] = "defect-type"
    mask_values: Mapping[int, str] | None = None
    image_size: int | None = None
    segmentation: Literal["rle", "polygon"] = "rle"
    points: int = 3
    box_jitter: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject values that no conversion can follow.

        Raises:
            ConfigError: names the option and what it takes.
        """
        if self.images not in ("link", "hardlink", "copy"):
            raise ConfigError(f"--images {self.images}: use link, hardlink or copy")
        if self.connectivity not in (4, 8):
            raise ConfigError(f"--connectivity {self.connectivity}: use 4 or 8")
        if self.segmentation not in ("rle", "polygon"):
            raise ConfigError(f"--segmentation {self.segmentation}: use rle or polygon")
        for name, least in (
            ("min_area", 1),
            ("merge_distance", 0),
            ("image_size", 1),
            ("points", 1),
            ("box_jitter", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} {value}: must be at least {least}")
        self._check_backgrounds()
        if isinstance(self.classes, str) and self.classes not in ("defect-type", "single"):
            raise ConfigError(
                f"--classes {self.classes}: use defect-type, single or a YAML file of type: class"
            )

    def _check_backgrounds(self) -> None:
        value = self.backgrounds
        if isinstance(value, str):
            fits = value == "all"
        elif isinstance(value, float):
            fits = 0 <= value < 1
        else:
            fits = value >= 0
        if not fits:
            raise ConfigError(
                f"--backgrounds {value}: use a count, a share of the training part below 1, or all"
            )

    def record(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        record = asdict(self)
        if self.mask_values is not None:
            record["mask_values"] = {str(k): v for k, v in self.mask_values.items()}
        return record
