"""Settings: what is refused, and that the shipped configs say what the code does."""

from __future__ import annotations

import dataclasses

import pytest

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
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_settings(YoloSettings, values, source="test")


@pytest.mark.parametrize(
    ("values", "extra"),
    [
        ({"hsv_v": "0.2"}, {"hsv_v": 0.2}),  # from the command line: text
        ({"cos_lr": "true", "lrf": 0.1}, {"cos_lr": True, "lrf": 0.1}),
        ({"hsv_v": "0.2", "extra": {"hsv_s": 0.1}}, {"hsv_s": 0.1, "hsv_v": 0.2}),
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
