"""Settings of the two detectors, with defaults for small industrial data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from toolkit.config import convert, setting
from toolkit.errors import ConfigError

Backgrounds = int | float | Literal["all"]

# Arguments of Ultralytics that this project sets itself; another value would break the run.
RESERVED = frozenset(
    {
        "data", "device", "exist_ok", "mode", "model", "name", "pretrained", "project", "resume",
        "save", "save_dir", "seed", "single_cls", "task", "val", "compile", "split", "time",
    }
)  # fmt: skip

# Arguments of Ultralytics that settings of ours stand for under other names. Beside them they would
# contradict what else the setting does: images are shrunk to image_size, boxes joined by nms_iou.
RENAMED = {"imgsz": "image_size", "lr0": "lr", "iou": "nms_iou"}


@dataclass(frozen=True)
class YoloSettings:
    """Settings of `yolo`; `YoloWorldSettings` adds to them."""

    model: str = setting("yolo11n", "network: a YOLO of Ultralytics, such as yolo11n or yolov8s")
    weights: str = setting(
        "pretrained",
        "start from: pretrained, auto (pretrained where reachable), none, a name from "
        "`toolkit weights list`, or a checkpoint file",
    )
    init: str = setting(
        "", "checkpoint file of which every tensor that fits by name and shape is copied"
    )
    trust: bool = setting(False, "read a checkpoint file although it could run code")
    epochs: int = setting(30, "largest number of passes over the training part")
    patience: int = setting(
        30, "stop after so many epochs without a better validation mAP; 0: never"
    )
    kept_epoch: Literal["best", "last"] = setting(
        "last", "which epoch predicts: the best on validation, or the last, whose rate is lowest"
    )
    image_size: int = setting(320, "longest side in pixels that images are resized to")
    batch: int = setting(16, "images per optimiser step")
    optimizer: Literal[
        "AdamW", "Adam", "Adamax", "NAdam", "RAdam", "RMSProp", "SGD", "MuSGD", "auto"
    ] = setting("AdamW", "optimiser; auto lets Ultralytics choose it and lr")
    lr: float = setting(0.0005, "learning rate after warm-up")
    head_lr_factor: float = setting(1.0, "lr of the layers that start untrained, as multiple of lr")
    bn_momentum: float = setting(
        0.1, "how fast batch norms follow the data; Ultralytics' 0.03 lags in short trainings"
    )
    freeze: int = setting(0, "keep the first so many layers as they are (10: the backbone)")
    freeze_epochs: int = setting(0, "keep them only for the first so many epochs; 0: throughout")
    backgrounds: str = setting(
        "0.25",
        "good images to train on: a number, a share of the training part below 1, or all",
    )
    mosaic: float = setting(0.0, "probability of joining four images into one; it cuts defects")
    close_mosaic: int = setting(10, "no mosaic during the last so many epochs")
    flips: Literal["card", "none", "horizontal", "vertical", "both"] = setting(
        "card", "mirror half of the images; card: as the data card allows"
    )
    degrees: str = setting(
        "card", "largest rotation in degrees; card: any where the data card allows it, else none"
    )
    scale: float = setting(
        0.1, "largest change of size, as a share; a fixed camera shows a defect at its true size"
    )
    copy_paste: int = setting(
        2, "images to make of each defective one by pasting its defect onto good ones"
    )
    paste_least: int = setting(
        40, "make at least so many such images in all, however few defects there are"
    )
    paste_beside: int = setting(
        2, "paste up to so many further, smaller defects into each pasted image"
    )
    cache: bool = setting(True, "keep decoded, resized images in memory")
    workers: int = setting(1, "data loading processes (a GPU's; on a CPU none are used)")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "numbers of the forward pass in training; auto: bfloat16 on CPUs made for it"
    )
    nms_iou: float = setting(0.7, "boxes that overlap by more are one")
    views: Literal["card", "one"] = setting(
        "card", "look at an image once, or in each mirrored and turned view that the card allows"
    )
    extra: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "any other training arguments of Ultralytics, as {hsv_v: 0.2}; one of them: "
            "--set hsv_v=0.2"
        },
    )

    @staticmethod
    def absorb(values: Mapping[str, Any]) -> dict[str, Any]:
        """Put training arguments of Ultralytics that are no settings of ours into `extra`.

        So `--set hsv_v=0.2` works like `hsv_v: 0.2` under `extra` in a config. Text is read as
        YAML, so that 0.2 is a number.
        """
        ours = {field.name for field in dataclasses.fields(YoloWorldSettings)}
        foreign = {key for key in set(values) - ours if key in _ultralytics_arguments()}
        if not foreign:
            return dict(values)
        given = {key: _read(values[key]) for key in sorted(foreign)}
        rest = {key: value for key, value in values.items() if key not in foreign}
        written = convert(rest.get("extra", {}), dict[str, Any], "extra")
        return {**rest, "extra": {**written, **given}}

    def __post_init__(self) -> None:
        """Refuse values that no training can follow.

        Raises:
            ConfigError: names the setting and what it takes.
        """
        reserved = sorted(RESERVED & set(self.extra))
        if reserved:
            raise ConfigError(f"extra: '{reserved[0]}' is set by the run itself; leave it out")
        _refuse_own(self.extra)
        if self.init and self.weights != "pretrained":
            raise ConfigError(f"init={self.init}: leave out weights={self.weights}")
        for name in ("epochs", "image_size", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("lr", "head_lr_factor", "bn_momentum"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("mosaic", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be between 0 and 1")
        if not 0 <= self.scale < 1:
            raise ConfigError(f"scale={self.scale}: must be at least 0 and below 1")
        for name in ("copy_paste", "paste_least", "paste_beside", "freeze", "freeze_epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 0")
        if self.freeze_epochs and not self.freeze:
            raise ConfigError(
                f"freeze_epochs={self.freeze_epochs}: nothing is frozen; say what with freeze "
                "(10: the backbone) or leave it out"
            )
        background_choice(self.backgrounds)
        rotation_choice(self.degrees)


@dataclass(frozen=True)
class YoloWorldSettings(YoloSettings):
    """Settings of `yolo-world`."""

    model: str = setting(
        "yolo11n-world",
        "network: yolov8{s,m,l,x}-worldv2, or any YOLO with -world for a text-driven head on it",
    )
    lr: float = setting(0.0004, "learning rate after warm-up")
    head_lr_factor: float = setting(3.0, "lr of the layers that start untrained, as multiple of lr")
    paste_beside: int = setting(
        0, "paste up to so many further, smaller defects into each pasted image"
    )
    train: Literal["full", "head", "prompts"] = setting(
        "full", "what learns: everything, the last layer, or the class embeddings alone"
    )
    tune_scale: bool = setting(
        False, "with train=prompts, the contrastive head's scale and bias learn too"
    )
    prompt_bank: str = setting(
        "",
        "safetensors file of phrases and their 512-d vectors, clip (ViT-B/32), or orthonormal; "
        "empty: clip where it can be had, else orthonormal",
    )
    background: str = setting(
        "", "phrase for what is no defect; a box it describes best is dropped"
    )
    old_data: str = setting(
        "", "data.yaml of classes that the base knew; the report has their mAP before and after"
    )

    def __post_init__(self) -> None:
        """Refuse what `yolo` refuses, and layers to freeze where `train` decides what learns.

        Raises:
            ConfigError: names the setting and what it takes.
        """
        super().__post_init__()
        if self.train != "full" and self.freeze:
            raise ConfigError(
                f"freeze={self.freeze}: train={self.train} freezes everything else itself; leave "
                "out freeze and freeze_epochs"
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


def _refuse_own(extra: Mapping[str, Any]) -> None:
    ours = {field.name for field in dataclasses.fields(YoloWorldSettings)}
    for key in extra:
        if key in RENAMED:
            name = RENAMED[key]
            raise ConfigError(f"{key}={extra[key]}: is called {name} here; use {name} instead")
        if key in ours:
            raise ConfigError(f"extra: '{key}' is a setting of its own; take it out of extra")


def _read(value: Any) -> Any:
    import yaml

    return yaml.safe_load(value) if isinstance(value, str) else value


def background_choice(text: str) -> Backgrounds:
    """Read the setting `backgrounds`: `all`, a number of images, or a share below 1.

    Raises:
        ConfigError: it is none of these.
    """
    if text == "all":
        return "all"
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if 0 <= number < 1:
        return number
    if number.is_integer() and number >= 1:
        return int(number)
    raise ConfigError(f"backgrounds={text}: use a number, a share below 1, or all")


def rotation_choice(text: str) -> float | Literal["card"]:
    """Read the setting `degrees`: `card`, or a number from 0 to 180.

    Raises:
        ConfigError: it is neither.
    """
    if text == "card":
        return "card"
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if 0 <= number <= 180:
        return number
    raise ConfigError(f"degrees={text}: use a number from 0 to 180, or card")
