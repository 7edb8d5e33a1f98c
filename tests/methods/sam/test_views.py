from __future__ import annotations

import numpy as np
import pytest

from toolkit.methods.sam.views import COUNT, view_of_array, view_of_image


def test_the_first_view_is_the_image_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(view_of_image(image, 0), image)


def test_all_eight_views_differ() -> None:
    array = np.arange(12).reshape(3, 4)
    assert len({view_of_array(array, v).tobytes() + bytes(view_of_array(array, v).shape)
                for v in range(COUNT)}) == COUNT  # fmt: skip


@pytest.mark.parametrize("view", range(COUNT))
def test_a_mask_turns_with_its_image(view: int) -> None:
    image = np.zeros((6, 9, 3), np.uint8)
    image[1:3, 2:7] = 100
    mask = image[..., 0] > 0
    turned = view_of_image(image, view)
    np.testing.assert_array_equal(turned[..., 0] > 0, view_of_array(mask, view))


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="views 0 to 7"):
        view_of_array(np.zeros((2, 2)), 8)
