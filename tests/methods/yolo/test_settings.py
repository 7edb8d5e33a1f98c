"""Settings: what is refused, and that the shipped configs say what the code does."""

from __future__ import annotations

import inspect
import re
from typing import get_args, get_type_hints

import pytest

from toolkit import ultralytics_env
from toolkit.config import build_settings, find_config, read_yaml
from toolkit.errors import ConfigError
from toolkit.formats.options import parse_backgrounds
from toolkit.methods.yolo.method import Yolo
from toolkit.methods.yolo.settings import YoloSettings, YoloWorldSettings
from toolkit.methods.yolo.world import YoloWorld


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", "all"),
        ("0", 0),
        ("0.25", 0.25),
        ("12", 12),
        ("12.0", 12),  # YAML may write a count as a float
        ("1", 1),  # one image, not the whole: a share is below 1
    ],
)
def test_backgrounds_are_a_count_a_share_or_all(text: str, expected: object) -> None:
    choice = parse_backgrounds(text, option="background_images")
    assert choice == expected
    assert type(choice) is type(expected)


@pytest.mark.parametrize("text", ["some", "-1", "1.5", "nan", ""])
def test_other_backgrounds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="background_images="):
        parse_backgrounds(text, option="background_images")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": -1}, "epochs=-1"),
        ({"image_size": -1}, "image_size=-1"),
        ({"batch": -1}, "batch=-1"),
        ({"lr": 0}, "lr=0"),
        ({"bn_momentum": 0}, "bn_momentum=0"),
        ({"mosaic": 1.5}, "mosaic=1.5"),
        ({"nms_iou": -0.1}, "nms_iou=-0.1"),
        ({"optimizer": "adamw"}, "did you mean"),  # with the nearest known name
        ({"flips": "sideways"}, "flips=sideways"),
        ({"background_images": "2.5"}, "background_images=2.5"),
        ({"degrees": "round"}, "degrees=round"),
        ({"degrees": "270"}, "degrees=270"),
        ({"scale": 1.0}, "scale=1.0"),  # down to nothing
        ({"scale": -0.1}, "scale=-0.1"),
        ({"copy_paste_per_image": -1}, "copy_paste_per_image=-1"),
        ({"freeze_layers": -1}, "freeze_layers=-1"),
        ({"tta": "card"}, "tta=card: expected bool"),
        (
            {"ultralytics_args": {"seed": 3}},
            "ultralytics_args: 'seed'",
        ),  # would break the run's record
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"imgsz": "640"}, "imgsz=640: is called image_size here"),  # as with --set
        ({"ultralytics_args": {"lr0": 0.1}}, "lr0=0.1: is called lr here"),
        ({"ultralytics_args": {"iou": 0.5}}, "iou=0.5: is called nms_iou here"),
        ({"freeze": 10}, "freeze=10: is called freeze_layers here"),
        ({"copy_paste": 0.5}, "copy_paste=0.5: is called copy_paste_per_image here"),
        ({"ultralytics_args": {"epochs": 3}}, "ultralytics_args: 'epochs' is a setting"),
        (
            {"ultralytics_args": "hsv_v=0.2"},
            "ultralytics_args=hsv_v=0.2: expected a mapping, such as {a: 1",
        ),
        ({"ultralytics_args": "{hsv_v"}, "ultralytics_args={hsv_v: expected a mapping"),
        ({"ultralytics_args": "hsv_v", "hsv_s": 0.1}, "ultralytics_args=hsv_v: expected a mapping"),
        ({"ultralytics_args": {"trainable": "head"}}, "ultralytics_args: 'trainable' is a setting"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_settings(YoloSettings, values, source="test")


@pytest.mark.parametrize("trainable", ["head", "prompts"])
def test_frozen_layers_are_decided_once(trainable: str) -> None:
    values = {"trainable": trainable, "freeze_layers": 10}
    with pytest.raises(ConfigError, match=f"freeze_layers=10: trainable={trainable} freezes"):
        build_settings(YoloWorldSettings, values, source="test")
    full = build_settings(YoloWorldSettings, {**values, "trainable": "full"}, source="test")
    assert full.freeze_layers == 10


def test_every_optimiser_of_ultralytics_is_taken() -> None:
    ultralytics_env.prepare()
    from ultralytics.engine.trainer import BaseTrainer

    source = inspect.getsource(BaseTrainer.build_optimizer)
    (named,) = re.findall(r"optimizers = \{(.*?)\}", source, re.DOTALL)
    theirs = {name.lower() for name in re.findall(r'"(\w+)"', named)}
    ours = {name.lower() for name in get_args(get_type_hints(YoloSettings)["optimizer"])}
    assert ours == theirs  # it reads the names in any case


@pytest.mark.parametrize(
    ("values", "arguments"),
    [
        ({"hsv_v": "0.2"}, {"hsv_v": 0.2}),  # from the command line: text
        ({"cos_lr": "true", "lrf": 0.1}, {"cos_lr": True, "lrf": 0.1}),
        ({"hsv_v": "0.2", "ultralytics_args": {"hsv_s": 0.1}}, {"hsv_s": 0.1, "hsv_v": 0.2}),
        (
            {"ultralytics_args": "{hsv_v: 0.2, cos_lr: true}"},
            {"hsv_v": 0.2, "cos_lr": True},
        ),  # --ultralytics-args
        ({"ultralytics_args": "{hsv_s: 0.1}", "hsv_v": "0.2"}, {"hsv_s": 0.1, "hsv_v": 0.2}),
        ({"ultralytics_args": "{}"}, {}),
        ({"epochs": "5"}, {}),  # a setting of ours of the same name stays ours
    ],
)
def test_arguments_of_ultralytics_pass_through(
    values: dict[str, object], arguments: dict[str, object]
) -> None:
    for cls in (YoloSettings, YoloWorldSettings):
        built = build_settings(cls, values, source="test")
        assert built.ultralytics_args == arguments
        assert built.epochs == int(values.get("epochs", cls().epochs))  # type: ignore[call-overload]


def test_arguments_that_the_run_sets_itself_do_not_pass() -> None:
    with pytest.raises(ConfigError, match="ultralytics_args: 'seed'"):
        build_settings(YoloSettings, {"seed": "3"}, source="test")


def test_a_setting_of_the_other_detector_is_unknown_here() -> None:
    with pytest.raises(ConfigError, match="unknown key 'text_embeddings'"):
        build_settings(YoloSettings, {"text_embeddings": "x"}, source="test")


@pytest.mark.parametrize("method", [Yolo, YoloWorld])
def test_the_shipped_config_repeats_no_default(method: type) -> None:
    assert read_yaml(find_config(f"{method.name}/default")) == {"method": method.name}
