"""`toolkit imbalance`: synthetic images of rare classes, and what they gain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolkit.cli.common import say

if TYPE_CHECKING:
    from torch import Tensor

imbalance_app = typer.Typer(
    help="Class imbalance: make images of rare classes, and measure what they gain.",
    no_args_is_help=True,
)

Size = Annotated[int, typer.Option("--size", help="Side in pixels: 16, 32, 64 or 128.")]
Epochs = Annotated[int, typer.Option("--epochs", help="Epochs of encoder and decoder.")]
NumNeighbors = Annotated[int, typer.Option("--num-neighbors", help="k of SMOTE.")]
PenaltyName = Literal["paper", "reconstruction", "none"]


@imbalance_app.command("deepsmote")
def deepsmote_command(
    data: Annotated[
        Path,
        typer.Option("--data", metavar="DIR", help="Class folders, or a data set."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Image folder to write.")],
    size: Size = 32,
    epochs: Epochs = 150,
    penalty: Annotated[
        PenaltyName, typer.Option("--penalty", help="Of the paper, of its code, or none.")
    ] = "paper",
    num_neighbors: NumNeighbors = 5,
    per_class: Annotated[
        int, typer.Option("--per-class", help="Wanted images per class; 0: as the largest has.")
    ] = 0,
    protocol: Annotated[
        str, typer.Option("--protocol", help="Protocol of the split of a data set.")
    ] = "supervised",
    fold: Annotated[
        int, typer.Option("--fold", help="Fold of a data set whose training part is used.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Make images of rare classes (DeepSMOTE), as an image folder with a contact sheet."""
    from toolkit.files import atomic_folder, write_json
    from toolkit.imbalance.deepsmote import (
        DeepSmote,
        missing_images,
        synthesize,
        train_deepsmote,
    )
    from toolkit.imbalance.image_folder import (
        CONTACT_SHEET,
        write_class_images,
        write_contact_sheet,
    )

    _check_size(size, epochs)
    names, images, labels = _training_images(data, size, protocol=protocol, fold=fold)
    missing = missing_images(labels, len(names), per_class=per_class)
    _check_enough(labels, names, missing, num_neighbors, data)
    how = DeepSmote(epochs=epochs, penalty=penalty, num_neighbors=num_neighbors)
    with atomic_folder(out, overwrite=overwrite) as folder:
        trained = train_deepsmote(images, labels, how, seed=seed)
        made = synthesize(trained, images, labels, missing, seed=seed)
        write_class_images(folder, *made, names)
        write_contact_sheet(folder / CONTACT_SHEET, (images, labels), made, names)
        write_json(
            folder / "report.json",
            {
                "penalty": penalty,
                "epochs": epochs,
                "num_neighbors": num_neighbors,
                "size": size,
                "seed": seed,
                "real": {n: int((labels == i).sum()) for i, n in enumerate(names)},
                "synthetic": {n: missing.get(i, 0) for i, n in enumerate(names)},
                "losses": [list(pair) for pair in trained.losses],
            },
        )
    for index, name in enumerate(names):
        real = int((labels == index).sum())
        print(f"{name}: {real} real, {missing.get(index, 0)} synthetic")
    print(f"images in {out}; look at {out / CONTACT_SHEET} before using them")


@imbalance_app.command("compare")
def compare_command(
    data: Annotated[
        str, typer.Option("--data", metavar="digits|DIR", help="DIR has train/ and test/.")
    ] = "digits",
    size: Size = 32,
    epochs: Epochs = 150,
    num_neighbors: NumNeighbors = 5,
    seeds: Annotated[int, typer.Option("--seeds", help="Number of seeds.")] = 5,
    largest: Annotated[int, typer.Option("--largest", help="Digits: largest class.")] = 100,
    smallest: Annotated[int, typer.Option("--smallest", help="Digits: smallest class.")] = 10,
) -> None:
    """Train a small network with and without DeepSMOTE, and print ACSA, G-mean and F1."""
    from toolkit.errors import ConfigError
    from toolkit.imbalance.compare import DIGITS_SIDE, compare, table
    from toolkit.imbalance.deepsmote import DeepSmote

    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: give at least 1")
    _check_size(DIGITS_SIDE if data == "digits" else size, epochs)
    how = DeepSmote(epochs=epochs, num_neighbors=num_neighbors)
    found = []
    for seed in range(seeds):
        names, train, test = (
            _digits(largest, smallest, seed) if data == "digits" else _parts(Path(data), size)
        )
        _check_enough(train[1], names, None, num_neighbors, Path(data))
        found.append(compare(train, test, names, how, seed=seed))
        say(f"seed {seed}: " + ", ".join(f"{k} {v.acsa:.3f}" for k, v in found[-1].items()))
    counts = ", ".join(f"{n} {int((train[1] == i).sum())}" for i, n in enumerate(names))
    print(f"training images: {counts}; {len(test[1])} test images; {seeds} seeds, mean ± std\n")
    print(table(found))


def _check_size(size: int, epochs: int) -> None:
    from toolkit.errors import ConfigError
    from toolkit.imbalance.deepsmote import SIZES

    if size not in SIZES:
        raise ConfigError(f"--size {size}: choose one of {', '.join(map(str, SIZES))}")
    if epochs < 1:
        raise ConfigError(f"--epochs {epochs}: give at least 1")


def _check_enough(
    labels: Tensor,
    names: tuple[str, ...],
    wanted: dict[int, int] | None,
    num_neighbors: int,
    data: Path,
) -> None:
    """Check that every class can be learned, and filled up where that is wanted."""
    from toolkit.errors import DataError
    from toolkit.imbalance.losses import class_counts
    from toolkit.imbalance.sampling import check_neighbors

    counts = class_counts(labels, len(names))
    for name, count in zip(names, counts.tolist(), strict=True):
        if count < 2:
            raise DataError(f"{data}: class {name} has {count} training images; add some")
    check_neighbors(counts, names, num_neighbors, wanted=wanted, option="--num-neighbors")


def _training_images(
    data: Path, size: int, *, protocol: str, fold: int
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Read class folders, or the training part of a data set's fold."""
    import torch

    from toolkit.cli.common import open_dataset, open_split
    from toolkit.errors import DataError
    from toolkit.imbalance.image_folder import find_class_images, read_resized
    from toolkit.methods.classifier.data import class_indices, class_names

    if not data.is_dir():
        raise DataError(f"{data}: no such folder; give class folders or a data set with --data DIR")
    found = find_class_images(data)
    if found is not None:
        return found.names, read_resized(found.paths, size), torch.tensor(found.labels)
    split = open_split(open_dataset(data), None, protocol=protocol, fold=fold)
    names = class_names(split, binary=False)
    images = read_resized([sample.image for sample in split.train], size)
    return names, images, torch.tensor(class_indices(split.train, names))


def _parts(
    data: Path, size: int
) -> tuple[tuple[str, ...], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Read `train/` and `test/` of an image folder."""
    import torch

    from toolkit.errors import DataError
    from toolkit.imbalance.image_folder import find_class_images, read_resized

    parts = []
    for name in ("train", "test"):
        folder = data / name
        found = find_class_images(folder) if folder.is_dir() else None
        if found is None:
            raise DataError(
                f"{folder}: no class folders; make them with: toolkit convert --to imagefolder"
            )
        parts.append(found)
    train, test = parts
    if train.names != test.names:
        odd = sorted(set(train.names) ^ set(test.names))[0]
        raise DataError(f"{data}: class {odd} is not in both train/ and test/; add images")
    pairs = [(read_resized(p.paths, size), torch.tensor(p.labels)) for p in parts]
    return train.names, pairs[0], pairs[1]


def _digits(
    largest: int, smallest: int, seed: int
) -> tuple[tuple[str, ...], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Draw a long-tailed training part and a balanced test part of the digits."""
    from toolkit.errors import ConfigError
    from toolkit.imbalance.compare import DIGITS, load_digits, long_tail_counts, split_long_tail

    if not 2 <= smallest <= largest <= 110:
        raise ConfigError(
            f"--smallest {smallest} --largest {largest}: from 2 to 110, the smaller one first"
        )
    images, labels = load_digits()
    counts = long_tail_counts(largest, smallest, len(DIGITS))
    train, test = split_long_tail(labels, counts, test_per_class=60, seed=seed)
    return DIGITS, (images[train], labels[train]), (images[test], labels[test])
