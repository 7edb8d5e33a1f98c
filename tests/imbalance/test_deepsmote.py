"""DeepSMOTE: the penalty as defined, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from toolkit.imbalance import compare as compare_module
from toolkit.imbalance.compare import (
    DIGITS,
    WITHOUT,
    compare,
    load_digits,
    long_tail_counts,
    split_long_tail,
    table,
)
from toolkit.imbalance.deepsmote import (
    PENALTIES,
    SIZES,
    AutoEncoder,
    DeepSmote,
    Trained,
    missing_images,
    penalty_of,
    synthesize,
    to_bytes,
    to_unit,
    train_deepsmote,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_in_their_size(size: int, channels: int) -> None:
    model = AutoEncoder(size, channels=channels, width=4, latent=7).eval()
    with torch.no_grad():
        latent = model.encode(torch.zeros(2, channels, size, size))
        images = model.decode(latent)
    assert latent.shape == (2, 7)
    assert images.shape == (2, channels, size, size)
    assert -1 <= float(images.min()) <= float(images.max()) <= 1


def test_bytes_survive_the_way_to_the_unit_interval() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)
    assert to_unit(every).min() == -1
    assert to_unit(every).max() == 1


class _Perfect(AutoEncoder):
    """Decodes exactly what was encoded."""

    def __init__(self) -> None:
        super().__init__(16, channels=1, width=2, latent=2)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return latent.view(-1, 1, 16, 16)


def test_penalties_of_a_perfect_decoder() -> None:
    # with embeddings alone permuted even a perfect decoder pays: the mean distance to the partner
    images = torch.rand(6, 1, 16, 16, generator=_generator()) * 2 - 1
    order = torch.randperm(6, generator=_generator(5))
    expected = ((images[order] - images) ** 2).mean()
    found = penalty_of(_Perfect(), images, "paper", _generator(5))
    torch.testing.assert_close(found, expected)
    assert float(found) > 0.1
    assert float(penalty_of(_Perfect(), images, "reconstruction", _generator(5))) == 0


def test_missing_images() -> None:
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 5)
    assert missing_images(labels, 3) == {1: 3}
    assert missing_images(labels, 3, per_class=6) == {0: 1, 1: 4, 2: 1}


def test_new_images_lie_between_those_of_their_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    grey = torch.tensor([10, 20, 30, 210, 220, 230])
    images = grey.view(-1, 1, 1, 1).expand(6, 1, 16, 16).to(torch.uint8)
    trained = Trained(_Perfect(), 2, ())
    made, of = synthesize(trained, images, labels, {0: 4, 1: 0, 2: 0})
    assert of.tolist() == [0] * 4
    assert 10 <= int(made.min()) <= int(made.max()) <= 30
    made, of = synthesize(trained, images, labels, {0: 2, 1: 3})
    assert of.tolist() == [0, 0, 1, 1, 1]
    assert int(made[of == 1].min()) >= 210


def test_a_long_tail_of_digits() -> None:
    images, labels = load_digits()
    assert images.shape == (1797, 1, 16, 16)
    counts = long_tail_counts(100, 10, 10)
    assert (counts[0], counts[-1]) == (100, 10)
    assert counts == sorted(counts, reverse=True)
    train, test = split_long_tail(labels, counts, test_per_class=50, seed=1)
    assert torch.bincount(labels[train]).tolist() == counts
    assert torch.bincount(labels[test]).tolist() == [50] * 10
    assert not set(train.tolist()) & set(test.tolist())


def _recognised(epochs: int) -> tuple[list[float], Trained]:
    """Return the share of synthetic digits that a classifier of real ones calls by their class."""
    images, labels = load_digits()
    train, _ = split_long_tail(labels, long_tail_counts(100, 10, 10), test_per_class=60, seed=0)
    own, of = images[train], labels[train]
    trained = train_deepsmote(own, of, DeepSmote(epochs=epochs), seed=0)
    missing = missing_images(of, 10, per_class=130)  # 30 of the largest class too
    made, made_of = synthesize(trained, own, of, missing)
    judge = SVC().fit(images.flatten(1).numpy() / 255, labels.numpy())
    predicted = judge.predict(made.flatten(1).numpy() / 255)
    truth = made_of.numpy()
    return [float(np.mean(predicted[truth == c] == c)) for c in range(10)], trained


@pytest.mark.slow
def test_synthetic_digits_are_recognised() -> None:
    shares, trained = _recognised(epochs=30)
    assert min(shares) >= 0.8, shares
    assert trained.losses[-1][0] < 0.2 * trained.losses[0][0]


def test_without_training_they_are_not() -> None:
    shares, _ = _recognised(epochs=1)
    assert min(shares) < 0.8


def test_equal_seeds_give_equal_images() -> None:
    images = torch.randint(0, 256, (12, 3, 16, 16), generator=_generator()).to(torch.uint8)
    labels = torch.tensor([0] * 8 + [1] * 4)
    how = DeepSmote(epochs=2, width=4, latent=8, num_neighbors=2)
    made = [
        synthesize(train_deepsmote(images, labels, how, seed=3), images, labels, {1: 4})[0]
        for _ in range(2)
    ]
    assert torch.equal(made[0], made[1])


def test_a_comparison_has_a_line_per_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "_STEPS", 25)
    images = torch.zeros(40, 1, 16, 16, dtype=torch.uint8)
    labels = torch.tensor([0] * 30 + [1] * 10)
    noise = torch.randint(0, 100, images.shape, generator=_generator()).to(torch.uint8)
    images += noise + (labels * 120).to(torch.uint8).view(-1, 1, 1, 1)
    how = DeepSmote(epochs=2, width=4, latent=8, num_neighbors=2)
    found = [compare((images, labels), (images, labels), DIGITS[:2], how, seed=s) for s in (0, 1)]
    assert list(found[0]) == [WITHOUT, *PENALTIES]
    assert found[0][WITHOUT].acsa == 1  # dark and bright are easily told apart
    text = table(found)
    assert "without" in text
    assert "better in 0 of 2 seeds" in text
