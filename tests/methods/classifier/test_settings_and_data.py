"""The parts that need no training: settings, labels, cache, augmentation, phases, scores."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toolkit.config import build_settings
from toolkit.data.dataset_cards import UNKNOWN, Symmetry
from toolkit.data.images import read_rgb
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.splits import Split
from toolkit.data.types import Dataset, Sample
from toolkit.errors import ConfigError, DataError
from toolkit.home import cache_dir
from toolkit.methods.classifier import data
from toolkit.methods.classifier.augment import augment
from toolkit.methods.classifier.data import class_indices, class_names
from toolkit.methods.classifier.network import anomaly_scores
from toolkit.methods.classifier.phases import learning_rate, phases_of
from toolkit.methods.classifier.settings import ClassifierSettings, from_scratch
from toolkit.methods.classifier.train import batches_of
from toolkit.methods.classifier.validation import validate
from toolkit.runtime.steps import resize_square


@pytest.fixture(scope="module")
def dataset(sample_dir: Path) -> Dataset:
    return load_dataset(sample_dir)


@pytest.fixture(scope="module")
def split(dataset: Dataset) -> Split:
    return make_plan(dataset, folds=3).fold(dataset, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 4}, "image_size"),  # no backbone has a pixel left
        ({"batch": 0}, "batch"),
        ({"finetune_epochs": 0, "head_epochs": 0}, "finetune_epochs"),  # nothing would be trained
        ({"lr": 0}, "lr"),
        ({"label_smoothing": 1.0}, "label_smoothing"),  # no label would be left
        ({"mixup": -1}, "mixup"),
        ({"augmentation_strength": "stron"}, "did you mean 'strong'"),
        ({"image_sise": 64}, "did you mean 'image_size'"),
        ({"imbalance": "focall"}, "did you mean 'focal'"),
        ({"augmentations": 9}, "augmentations"),
        ({"monitor": "none", "patience": 3}, "patience"),  # nothing unseen to be patient with
        ({"effective_beta": 1.0}, "effective_beta"),  # every image would count nothing
        ({"deepsmote_size": 33}, "deepsmote_size"),  # cannot be halved to 4
        ({"smote_num_neighbors": 0}, "smote_num_neighbors"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_settings(ClassifierSettings, values, source="test.yaml")


CONFIGS = ["default", "head", "last-block", "long-tail", "pooled", "pooled-tta", "pooled-with-val"]


@pytest.mark.parametrize("name", ["resnet/default", *(f"classifier/{name}" for name in CONFIGS)])
def test_shipped_configs_fit_the_settings(name: str) -> None:
    from toolkit.config import find_config, read_yaml

    values = read_yaml(find_config(name))
    assert values.pop("method") == "classifier"
    settings = build_settings(ClassifierSettings, values, source=name)
    same = [k for k, v in dataclasses.asdict(ClassifierSettings()).items() if values.get(k) == v]
    assert not same  # a config holds what differs from the defaults
    if name == "classifier/default":
        assert settings == ClassifierSettings()


# As published: size, epochs, batch, network, weights.
ROWS = [
    (32, 50, 32, "resnet18", "V1"),
    (64, 50, 32, "resnet18", "V1"),
    (32, 200, 32, "resnet18", "V1"),
    (32, 100, 16, "resnet18", "V1"),
    (32, 100, 32, "resnet50", "V1"),
    (32, 100, 32, "resnet50", "V2"),
    (32, 300, 32, "resnet18", "V1"),
    (128, 150, 32, "resnet18", "V1"),
]


@pytest.mark.parametrize(("number", "row"), list(enumerate(ROWS, start=1)))
def test_the_rows_of_the_published_experiment(number: int, row: tuple[object, ...]) -> None:
    from toolkit.config import find_config, read_yaml

    values = read_yaml(find_config(f"resnet/experiment-{number}"))
    size, epochs, batch, network, version = row
    assert values.pop("method") == "classifier"
    build_settings(ClassifierSettings, values, source="row")
    found = (values["image_size"], values["finetune_epochs"], values["batch"], values["network"])
    assert found == (size, epochs, batch, network)
    assert values["weights"] == ("auto" if version == "V1" else "auto:resnet50-v2")
    assert (values["optimizer"], values["lr"], values["head_epochs"]) == ("adam", 0.001, 0)


def test_the_benchmarks_name_every_row_and_every_remedy() -> None:
    import typing

    from toolkit.benchmarking.grid import read_benchmark

    experiments = read_benchmark("benchmark/resnet-experiments")
    published = [e.published["value"] for e in experiments.entries if e.published]
    assert published == [0.5, 0.375, 0.875, 0.75, 0.75, 0.69, 0.75, 0.75]
    assert experiments.folds == (0, 1, 2, 3, 4)
    remedies = typing.get_args(typing.get_type_hints(ClassifierSettings)["imbalance"])
    study = read_benchmark("benchmark/long-tail")
    assert [e.settings["imbalance"] for e in study.entries] == list(remedies)
    assert study.folds == (0, 1, 2, 3, 4)


def test_without_pretrained_weights_nothing_is_frozen() -> None:
    frozen = ClassifierSettings(head_epochs=5, finetune_epochs=7, train_layers="head")
    free = from_scratch(frozen)
    assert free.batch_norm == "recalibrated"  # frozen statistics would be those of no image
    (phase,) = phases_of(free)
    assert (phase.start, phase.end, phase.layers) == (0, 7, "all")
    assert from_scratch(ClassifierSettings()).finetune_epochs == 32


@pytest.mark.parametrize(
    ("imbalance", "phases"),
    [
        ("none", [(0, 5, "head", False), (5, 12, "all", False)]),
        ("crt", [(0, 5, "head", False), (5, 12, "all", False), (12, 15, "head", True)]),
        ("smote", [(0, 5, "head", False), (5, 12, "all", False), (12, 15, "head", True)]),
    ],
)
def test_phases(imbalance: str, phases: list[tuple[object, ...]]) -> None:
    settings = ClassifierSettings(
        head_epochs=5, finetune_epochs=7, retrain_epochs=3, imbalance=imbalance
    )  # type: ignore[arg-type]
    found = [(p.start, p.end, p.layers, p.retrains) for p in phases_of(settings)]
    assert found == phases


def test_class_names(split: Split) -> None:
    types = class_names(split, binary=False)
    assert types == ("good", "broken_large", "broken_small", "contamination")
    assert class_names(split, binary=True) == ("good", "defect")
    indices = class_indices(split.val, types)
    assert [types[i] for i in indices] == [s.label for s in split.val]
    assert class_indices(split.val, ("good", "defect")) == [int(s.is_defect) for s in split.val]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (0, "class broken_small has no training image"),  # only in validation and test
        (1, "class broken_small has only one training image"),
    ],
)
def test_rare_classes_are_refused(split: Split, kept: int, message: str) -> None:
    rare = [s for s in split.train if s.label == "broken_small"]
    train = [s for s in split.train if s not in rare[kept:]]
    poor = dataclasses.replace(split, train=tuple(train))
    with pytest.raises(DataError, match=message):
        class_names(poor, binary=False)
    assert class_names(poor, binary=True) == ("good", "defect")


def test_good_images_alone_are_refused(dataset: Dataset) -> None:
    official = make_plan(dataset, protocol="official").fold(dataset, 0)
    with pytest.raises(DataError, match="trains on no defect image"):
        class_names(official, binary=False)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Image files that were decoded at full size."""
    paths: list[Path] = []

    def counting(path: Path) -> np.ndarray:
        paths.append(path)
        return read_rgb(path)

    monkeypatch.setattr(data, "read_rgb", counting)
    return paths


def test_no_image_is_decoded_twice(dataset: Dataset, decoded: list[Path]) -> None:
    samples = dataset.samples[:4]
    first = data.load_resized(samples, dataset, size=24)
    again = data.load_resized(samples[::-1], dataset, size=24)
    assert len(decoded) == 4
    assert first.shape == (4, 3, 24, 24)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again.flip(0))
    direct = resize_square(read_rgb(samples[1].image), 24)
    assert np.array_equal(first[1].permute(1, 2, 0).numpy(), direct)


@pytest.mark.parametrize("left", [0, 5, 200])  # nothing, half a header, half the pixels
def test_a_cache_file_cut_short_is_made_again(
    dataset: Dataset, decoded: list[Path], left: int
) -> None:
    samples = dataset.samples[:1]
    whole = data.load_resized(samples, dataset, size=16)
    (file,) = cache_dir().rglob("*.npy")
    file.write_bytes(file.read_bytes()[:left])
    assert torch.equal(data.load_resized(samples, dataset, size=16), whole)
    assert len(decoded) == 2
    assert torch.equal(data.load_resized(samples, dataset, size=16), whole)
    assert len(decoded) == 2


@pytest.mark.parametrize(
    ("modes", "policy", "message"),
    [
        (["RGB", "RGB"], "repeat", ""),
        (["L", "L"], "repeat", "2 grayscale images .* repeated"),
        (["L", "LA"], "repeat", "2 grayscale images .* repeated"),  # alpha is no color
        (
            ["L", "L"],
            "refuse",
            r"0\.png: grayscale, but the network takes RGB; .*--grayscale repeat",
        ),
        (
            ["RGB", "L"],
            "repeat",
            r"1\.png: grayscale, but 1 of 2 images are in color",
        ),  # tells classes
    ],
)
def test_grayscale_images(tmp_path: Path, modes: list[str], policy: str, message: str) -> None:
    samples = []
    for number, mode in enumerate(modes):
        path = tmp_path / f"{number}.png"
        Image.new(mode, (9, 9)).save(path)
        samples.append(Sample(id=path.name, image=path, label="good"))
    if policy == "refuse" or (len(set(modes)) > 1 and "RGB" in modes):
        with pytest.raises(DataError, match=message):
            data.check_channels(samples, grayscale=policy)
    else:
        remark = data.check_channels(samples, grayscale=policy)
        assert re.search(message, remark)
        assert bool(remark) == bool(message)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), strength=st.sampled_from(["light", "strong"]))
def test_augmentation_follows_its_generator_and_stays_in_range(seed: int, strength: str) -> None:
    images = torch.rand(3, 3, 12, 12, generator=_generator(seed))
    once = augment(images, strength, _generator(seed), symmetry=UNKNOWN)
    assert torch.equal(once, augment(images, strength, _generator(seed), symmetry=UNKNOWN))
    assert once.shape == images.shape
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    assert not torch.equal(once, images)


def test_augmentation_moves_each_image_by_its_own_amount() -> None:
    images = torch.rand(1, 3, 12, 12, generator=_generator(0)).repeat(2, 1, 1, 1)
    first, second = augment(images, "strong", _generator(1), symmetry=UNKNOWN)
    assert not torch.allclose(first, second, atol=0.05)
    assert torch.equal(augment(images, "none", _generator(1), symmetry=UNKNOWN), images)


@pytest.mark.parametrize(
    ("flips", "rotation", "seen"),
    [
        ((), "none", {"upper left"}),
        (("horizontal",), "none", {"upper left", "upper right"}),
        (("vertical",), "none", {"upper left", "lower left"}),
        ((), "half", {"upper left", "lower right"}),
        ((), "any", {"upper left", "upper right", "lower left", "lower right"}),
    ],
)
def test_augmentation_turns_a_product_only_as_it_may_stand(
    flips: tuple[str, ...], rotation: str, seen: set[str]
) -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, 2:6, 2:6] = 1
    batch = image.repeat(64, 1, 1, 1)
    made = augment(batch, "strong", _generator(0), symmetry=Symmetry(flips, rotation)).mean(1)
    places = set()
    for one in made:
        place = (one == one.max()).nonzero().float().mean(0)
        vertical = "upper" if place[0] < 7.5 else "lower"
        places.add(f"{vertical} {'left' if place[1] < 7.5 else 'right'}")
    assert places == seen


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),  # one image alone has no batch statistics
        (1, 4, [1]),
        (8, 4, [4, 4]),
    ],
)
def test_batches(count: int, size: int, sizes: list[int]) -> None:
    batches = batches_of(torch.arange(count), size)
    assert [len(b) for b in batches] == sizes
    assert torch.equal(torch.cat(batches), torch.arange(count))


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        ("constant", 0.9, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("linear", 0.25, 0.75),
    ],
)
def test_learning_rate(schedule: str, progress: float, share: float) -> None:
    assert learning_rate(schedule, 0.2, progress) == pytest.approx(0.2 * share)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6))
def test_anomaly_score_is_the_log_odds_of_a_defect(logits: list[float]) -> None:
    row = torch.tensor([logits], dtype=torch.float64)
    defect = float(row.softmax(1)[0, 1:].sum())
    good = float(row.softmax(1)[0, 0])
    assert float(anomaly_scores(row)[0]) == pytest.approx(math.log(defect / good), abs=1e-9)


def test_validation_figures() -> None:
    # three classes; the second image of class 1 is taken for class 2
    logits = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 1, 4], [0, 0, 4]])
    labels = torch.tensor([0, 1, 1, 2])
    found = validate(logits, labels, ("good", "a", "b"))
    assert found.accuracy == 0.75
    assert found.balanced_accuracy == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.auroc == 1.0
    assert found.confusion == ((1, 0, 0), (0, 1, 1), (0, 0, 1))
    better = dataclasses.replace(found, loss=found.loss / 2)
    ranked = dataclasses.replace(found, auroc=0.9, balanced_accuracy=1.0)
    assert found.key("auroc", 1) > ranked.key("auroc", 1)
    assert ranked.key("balanced-accuracy", 1) > found.key("balanced-accuracy", 1)
    assert better.key("balanced-accuracy", 1) > found.key("balanced-accuracy", 2)
    assert better.key("last", 1) < found.key("last", 2)
