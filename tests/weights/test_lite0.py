"""EfficientNet-Lite0: the weights land in the right layers, so it recognises things."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from toolkit.errors import WeightsError
from toolkit.weights import lite0


def sample_input(name: str) -> torch.Tensor:
    """The central square of a sample photo at 224 pixels, normalised: (1, 3, 224, 224)."""
    image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
    side = min(image.shape[2:])
    top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
    image = image[..., top : top + side, left : left + side]
    image = F.interpolate(image, size=(224, 224), mode="bicubic", antialias=True)
    mean, std = (
        torch.tensor(value)[:, None, None] for value in (lite0.LITE0_MEAN, lite0.LITE0_STD)
    )
    return (image - mean) / std


@pytest.mark.parametrize(
    ("photo", "imagenet_class"),
    [
        ("china.jpg", 698),  # palace
        ("flower.jpg", 985),  # daisy
    ],
)
def test_classifies_photos(photo: str, imagenet_class: int) -> None:
    network = timm.create_model(lite0.LITE0_NAME, pretrained=False).eval()
    network.load_state_dict(lite0.lite0_state_dict())
    with torch.no_grad():
        logits = network(sample_input(photo))
    assert logits.shape == (1, 1000)
    assert int(logits.argmax()) == imagenet_class


def test_normalisation_of_the_original() -> None:
    for value in (0, 127, 255):
        ours = (value / 255 - lite0.LITE0_MEAN[0]) / lite0.LITE0_STD[0]
        assert ours == pytest.approx((value - 127) / 128)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("drop", "holds 295 tensors"),
        ("reshape", "does not fit timm's conv_stem.weight"),
        ("rename", "does not fit timm's bn1.weight"),  # equal shape, another role
    ],
)
def test_foreign_file_is_refused(monkeypatch: pytest.MonkeyPatch, change: str, reason: str) -> None:
    state = lite0.load_state_dict(lite0.fetch(lite0.LITE0_NAME))
    names = list(state)
    if change == "drop":
        del state[names[-1]]
    elif change == "reshape":
        state[names[0]] = state[names[0]].flatten()
    else:
        order = [names[0], names[2], names[1], *names[3:]]
        state = {name: state[name] for name in order}
    monkeypatch.setattr(lite0, "load_state_dict", lambda path: state)
    with pytest.raises(WeightsError, match=reason):
        lite0.lite0_state_dict()


def test_renamed_tensors_are_left_as_they_are() -> None:
    state = lite0.lite0_state_dict()
    again = lite0.to_timm_names(state, source="mine.pth")
    assert all(again[name] is tensor for name, tensor in state.items())
