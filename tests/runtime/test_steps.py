"""The light of images before a network."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.runtime.steps import MapSteps, in_light, light_of


def _image(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 180, (height, width, 3), np.uint8)


def test_light_is_the_mean() -> None:
    assert light_of(_image()) == pytest.approx(_image().mean())
    assert light_of(np.full((1, 1, 3), 55, np.uint8)) == 55


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_an_image_comes_to_the_light_of_others(factor: float) -> None:
    image = _image()
    changed = np.rint(image * factor).astype(np.uint8)
    evened = in_light(changed, light_of(image))
    assert light_of(evened) == pytest.approx(light_of(image), abs=0.5)
    assert np.abs(evened.astype(float) - image).max() <= 2  # rounded twice


def test_no_light_leaves_an_image_as_it_is() -> None:
    image = _image()
    assert in_light(image, None) is image


@pytest.mark.parametrize(("value", "expected"), [(40, 50), (200, 160), (0, 0)])
def test_what_is_far_too_dark_or_bright_stays_so(value: int, expected: int) -> None:
    image = np.full((32, 32, 3), value, np.uint8)
    assert in_light(image, 100.0)[0, 0].tolist() == [expected] * 3


@pytest.mark.parametrize("light", [None, 120.0])
def test_the_network_gets_the_image_in_its_light(light: float | None) -> None:
    record = {"input_hw": [32, 32], "smoothing_sigma": 0, "image_score": "max", "light": light}
    seen: list[np.ndarray] = []

    def network(image: np.ndarray) -> list[np.ndarray]:
        seen.append(image[0])
        return [np.zeros((4, 4), np.float32)]

    image = np.full((32, 32, 3), 100, np.uint8)
    MapSteps(record).predict(image, network)
    assert np.unique(seen[0]).tolist() == [100 if light is None else 120]
