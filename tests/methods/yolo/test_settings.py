"""Settings: what is refused, and that the shipped configs say what the code does."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import get_args, get_type_hints

import pytest

from toolkit import ultralytics_env
from toolkit.config import build_settings, find_config, read_yaml
from toolkit.errors import ConfigError
from toolkit.methods.yolo.method import Yolo
from toolkit.methods.yolo.settings import YoloSettings, YoloWorldSettings, background_choice
from toolkit.methods.yolo.world import YoloWorld


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", "all"),
        ("0", 0.0),
        ("0.25", 0.25),
        ("12", 12),
        ("12.0", 12),  # YAML may write a count as a float
        ("1", 1),  # one image, not the whole: a share is below 1
    ],
)
def test_backgrounds_are_a_count_a_share_or_all(text: str, expected: object) -> None:
    choice = background_choice(text)
    assert choice == expected
    assert type(choice) is type(expected)


@pytest.mark.parametrize("text", ["some", "-1", "1.5", "nan", ""])
def test_other_backgrounds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="backgrounds="):
        background_choice(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"image_size": 0}, "image_size=0"),
        ({"batch": -1}, "batch=-1"),
        ({"lr": 0}, "lr=0"),
        ({"bn_momentum": 0}, "bn_momentum=0"),
        ({"mosaic": 1.5}, "mosaic=1.5"),
        ({"nms_iou": -0.1}, "nms_iou=-0.1"),
        ({"optimizer": "adamw"}, "did you mean"),  # with the nearest known name
        ({"flips": "sideways"}, "flips=sideways"),
        ({"backgrounds": "2.5"}, "backgrounds=2.5"),
        ({"degrees": "round"}, "degrees=round"),
        ({"degrees": "270"}, "degrees=270"),
        ({"scale": 1.0}, "scale=1.0"),  # down to nothing
        ({"scale": -0.1}, "scale=-0.1"),
        ({"copy_paste": -1}, "copy_paste=-1"),
        ({"paste_beside": -1}, "paste_beside=-1"),
        ({"freeze_epochs": -1}, "freeze_epochs=-1"),
        ({"init": "a.pt", "weights": "none"}, "leave out weights=none"),
        ({"extra": {"seed": 3}}, "extra: 'seed'"),  # would break the run's record
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"imgsz": "640"}, "imgsz=640: is called image_size here"),  # as with --set
        ({"extra": {"lr0": 0.1}}, "lr0=0.1: is called lr here"),
        ({"extra": {"iou": 0.5}}, "iou=0.5: is called nms_iou here"),
        ({"extra": {"epochs": 3}}, "extra: 'epochs' is a setting of its own"),
        ({"extra": "hsv_v=0.2"}, "extra=hsv_v=0.2: expected a mapping, such as {a: 1"),
        ({"extra": "{hsv_v"}, "extra={hsv_v: expected a mapping"),
        ({"extra": "hsv_v", "hsv_s": 0.1}, "extra=hsv_v: expected a mapping"),
        ({"extra": {"train": "head"}}, "extra: 'train' is a setting"),  # of the other detector
        ({"freeze_epochs": 2}, "freeze_epochs=2: nothing is frozen"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_settings(YoloSettings, values, source="test")


@pytest.mark.parametrize("train", ["head", "prompts"])
@pytest.mark.parametrize("values", [{"freeze": 10}, {"freeze": 10, "freeze_epochs": 2}])
def test_what_learns_is_not_said_twice(train: str, values: dict[str, int]) -> None:
    """Ultralytics would thaw the whole network after `freeze_epochs`, whatever `train` says."""
    with pytest.raises(ConfigError, match=f"freeze=10: train={train} freezes everything else"):
        build_settings(YoloWorldSettings, {"train": train, **values}, source="test")
    assert build_settings(YoloWorldSettings, {"train": "full", **values}, source="test").freeze


def test_every_optimiser_of_ultralytics_is_taken() -> None:
    ultralytics_env.prepare()
    from ultralytics.engine.trainer import BaseTrainer

    source = inspect.getsource(BaseTrainer.build_optimizer)
    (named,) = re.findall(r"optimizers = \{(.*?)\}", source, re.DOTALL)
    theirs = {name.lower() for name in re.findall(r'"(\w+)"', named)}
    ours = {name.lower() for name in get_args(get_type_hints(YoloSettings)["optimizer"])}
    assert ours == theirs  # it reads the names in any case


@pytest.mark.parametrize(
    ("values", "extra"),
    [
        ({"hsv_v": "0.2"}, {"hsv_v": 0.2}),  # from the command line: text
        ({"cos_lr": "true", "lrf": 0.1}, {"cos_lr": True, "lrf": 0.1}),
        ({"hsv_v": "0.2", "extra": {"hsv_s": 0.1}}, {"hsv_s": 0.1, "hsv_v": 0.2}),
        ({"extra": "{hsv_v: 0.2, cos_lr: true}"}, {"hsv_v": 0.2, "cos_lr": True}),  # --extra
        ({"extra": "{hsv_s: 0.1}", "hsv_v": "0.2"}, {"hsv_s": 0.1, "hsv_v": 0.2}),
        ({"extra": "{}"}, {}),
        ({"epochs": "5"}, {}),  # a setting of ours of the same name stays ours
    ],
)
def test_arguments_of_ultralytics_pass_through(
    values: dict[str, object], extra: dict[str, object]
) -> None:
    for cls in (YoloSettings, YoloWorldSettings):
        built = build_settings(cls, values, source="test")
        assert built.extra == extra
        assert built.epochs == int(values.get("epochs", cls().epochs))  # type: ignore[call-overload]


def test_arguments_that_the_run_sets_itself_do_not_pass() -> None:
    with pytest.raises(ConfigError, match="extra: 'seed'"):
        build_settings(YoloSettings, {"seed": "3"}, source="test")


def test_a_setting_of_the_other_detector_is_unknown_here() -> None:
    with pytest.raises(ConfigError, match="unknown key 'prompt_bank'"):
        build_settings(YoloSettings, {"prompt_bank": "x"}, source="test")


@pytest.mark.parametrize("method", [Yolo, YoloWorld])
def test_the_shipped_config_names_every_setting_with_its_default(method: type) -> None:
    config = read_yaml(find_config(f"{method.name}/default"))
    assert config.pop("method") == method.name
    assert build_settings(method.Settings, config, source="config") == method.Settings()
    assert set(config) == {field.name for field in dataclasses.fields(method.Settings)}
