"""Settings of the two detectors, with defaults for small industrial data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from toolkit.config import convert, setting
from toolkit.errors import ConfigError
from toolkit.formats.options import parse_backgrounds

# Arguments of Ultralytics that this project sets itself; another value would break the run.
RESERVED = frozenset(
    {
        "data", "device", "exist_ok", "mode", "model", "name", "pretrained", "project", "resume",
        "save", "save_dir", "seed", "single_cls", "task", "val", "compile", "split", "time",
    }
)  # fmt: skip

# Arguments of Ultralytics that have a setting of another name here, which also does more: images
# are resized to `image_size`, `copy_paste` is a probability there and a number of images here.
RENAMED = {
    "imgsz": "image_size",
    "lr0": "lr",
    "iou": "nms_iou",
    "freeze": "freeze_layers",
    "copy_paste": "copy_paste_per_image",
}


@dataclass(frozen=True)
class YoloSettings:
    """Settings of `yolo`; `YoloWorldSettings` adds to them."""

    model: str = setting("yolo11n", "network: a YOLO of Ultralytics, such as yolo11n or yolov8s")
    weights: str = setting(
        "pretrained",
        "pretrained (COCO), auto (from scratch where they cannot be had), none (from scratch), "
        "a name of `toolkit weights list`, or a checkpoint file",
    )
    allow_pickle: bool = setting(
        False, "read a checkpoint file although it could run code", advanced=True
    )
    epochs: int = setting(
        0, "passes over the training images; 0: as many as make 150 steps, 30 to 100"
    )
    patience: int = setting(
        0, "epochs without a better validation mAP to stop after; 0: never", advanced=True
    )
    checkpoint: Literal["best", "last"] = setting(
        "last", "weights to predict with: last, or best", advanced=True
    )
    image_size: int = setting(
        0, "longest side in pixels; 0: as small defects need and ten minutes allow, 320 to 640"
    )
    tile: bool = setting(
        False, "look at the whole image and at overlapping parts of it, for small defects"
    )
    batch: int = setting(16, "images per optimizer step", advanced=True)
    optimizer: Literal[
        "AdamW", "Adam", "Adamax", "NAdam", "RAdam", "RMSProp", "SGD", "MuSGD", "auto"
    ] = setting("AdamW", "optimizer; auto: Ultralytics chooses it and lr", advanced=True)
    lr: float = setting(0.0005, "learning rate after warm-up", advanced=True)
    head_lr_mult: float = setting(
        1.0, "multiple of lr for the layers that start untrained", advanced=True
    )
    bn_momentum: float = setting(
        0.1, "of batch norm statistics; 0.03 is slow for few batches", advanced=True
    )
    freeze_layers: int = setting(
        0, "number of leading layers to freeze (10: the backbone)", advanced=True
    )
    background_images: str = setting(
        "0.25",
        "good training images: a number, a share of the training part below 1, or all",
        advanced=True,
    )
    mosaic: float = setting(
        0.0, "probability of mosaic (four images in one), which cuts defects", advanced=True
    )
    close_mosaic: int = setting(10, "number of last epochs without mosaic", advanced=True)
    flips: Literal["auto", "none", "horizontal", "vertical", "both"] = setting(
        "auto", "mirror half of the images; auto: as the data card allows", advanced=True
    )
    degrees: str = setting(
        "auto",
        "largest rotation in degrees; auto: 180 where the data card allows it, else 0",
        advanced=True,
    )
    scale: float = setting(
        0.1, "largest change of size, as a share; 0.5 for varying distances", advanced=True
    )
    copy_paste_per_image: int = setting(2, "good images to paste each training defect onto")
    cache: bool = setting(True, "keep decoded, resized images in memory", advanced=True)
    workers: int = setting(1, "data loading processes on a GPU; a CPU uses none", advanced=True)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "of the forward pass in training; auto: bfloat16 on CPUs that compute it natively",
        advanced=True,
    )
    nms_iou: float = setting(
        0.7, "IoU above which boxes of one class are duplicates", advanced=True
    )
    tta: bool = setting(
        False, "test-time augmentation: predict in every flip and turn that the data card allows"
    )
    ultralytics_args: dict[str, Any] = setting(
        {}, "other training arguments of Ultralytics; or one: --set hsv_v=0.2", advanced=True
    )

    @staticmethod
    def absorb(values: Mapping[str, Any]) -> dict[str, Any]:
        """Move training arguments of Ultralytics that are no settings here to `ultralytics_args`.

        So `--set hsv_v=0.2` works like `hsv_v: 0.2` under `ultralytics_args` in a config. Text is
        read as YAML, so that 0.2 is a number.
        """
        import yaml

        own = {field.name for field in dataclasses.fields(YoloWorldSettings)}
        foreign = {key for key in set(values) - own if key in _ultralytics_arguments()}
        if not foreign:
            return dict(values)
        rest = {key: value for key, value in values.items() if key not in foreign}
        name = "ultralytics_args"
        arguments = dict(convert(rest.get(name, {}), dict[str, Any], name))
        for key in sorted(foreign):
            value = values[key]
            arguments[key] = yaml.safe_load(value) if isinstance(value, str) else value
        return {**rest, name: arguments}

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value that no training can use; names the setting and what it takes.
        """
        self._check_ultralytics_args()
        checks: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
            (("batch",), lambda v: v >= 1, "at least 1"),
            (("epochs", "image_size", "patience"), lambda v: v >= 0, "at least 0"),
            (("lr", "head_lr_mult", "bn_momentum"), lambda v: v > 0, "above 0"),
            (("mosaic", "nms_iou"), lambda v: 0 <= v <= 1, "between 0 and 1"),
            (("scale",), lambda v: 0 <= v < 1, "at least 0 and below 1"),
            (("copy_paste_per_image", "freeze_layers"), lambda v: v >= 0, "at least 0"),
        )
        for names, accepts, expected in checks:
            for name in names:
                if not accepts(getattr(self, name)):
                    raise ConfigError(f"{name}={getattr(self, name)}: must be {expected}")
        if self.tile and self.tta:
            raise ConfigError("tile=true, tta=true: not both at once; choose one")
        parse_backgrounds(self.background_images, option="background_images")
        parse_degrees(self.degrees)

    def _check_ultralytics_args(self) -> None:
        own = {field.name for field in dataclasses.fields(YoloWorldSettings)}
        for key, value in self.ultralytics_args.items():
            if key in RESERVED:
                raise ConfigError(f"ultralytics_args: '{key}' is set by the run; leave it out")
            if key in RENAMED:
                raise ConfigError(f"{key}={value}: is called {RENAMED[key]} here; use that")
            if key in own:
                raise ConfigError(f"ultralytics_args: '{key}' is a setting; give it as such")


@dataclass(frozen=True)
class YoloWorldSettings(YoloSettings):
    """Settings of `yolo-world`."""

    model: str = setting(
        "yolo11n-world",
        "network: yolov8{s,m,l,x}-worldv2, or any YOLO with -world for a text-driven head on it",
    )
    lr: float = setting(0.0004, "learning rate after warm-up", advanced=True)
    head_lr_mult: float = setting(
        3.0, "multiple of lr for the layers that start untrained", advanced=True
    )
    trainable: Literal["full", "head", "prompts"] = setting(
        "full", "everything, the last layer, or the class embeddings alone"
    )
    train_logit_scale: bool = setting(
        False, "with trainable=prompts, train the head's scale and bias, too", advanced=True
    )
    text_embeddings: str = setting(
        "",
        "clip (ViT-B/32), orthonormal, or a safetensors file of phrases and 512-d vectors; "
        "empty: clip where it can be had, else orthonormal",
    )
    background_prompt: str = setting(
        "", "phrase for no defect; boxes that it fits best are dropped", advanced=True
    )
    retention_data: str = setting(
        "",
        "data.yaml of classes that the base model knew; reports mAP before and after",
        advanced=True,
    )

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: as for `yolo`, or `freeze_layers` beside a `trainable` that decides it.
        """
        super().__post_init__()
        if self.trainable != "full" and self.freeze_layers:
            raise ConfigError(
                f"freeze_layers={self.freeze_layers}: trainable={self.trainable} freezes "
                "everything else itself; leave out freeze_layers"
            )


@lru_cache(maxsize=1)
def _ultralytics_arguments() -> frozenset[str]:
    """Return the names in Ultralytics' own list of defaults, which is read without importing it."""
    import yaml

    found = find_spec("ultralytics")
    if found is None or found.origin is None:
        return frozenset()
    text = (Path(found.origin).parent / "cfg/default.yaml").read_text(encoding="utf-8")
    return frozenset(yaml.safe_load(text))


def parse_degrees(text: str) -> float | Literal["auto"]:
    """Parse the setting `degrees`: `auto`, or a number from 0 to 180.

    Raises:
        ConfigError: it is neither.
    """
    if text == "auto":
        return "auto"
    number = _number(text)
    if 0 <= number <= 180:
        return number
    raise ConfigError(f"degrees={text}: use a number from 0 to 180, or auto")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
