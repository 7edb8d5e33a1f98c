"""`toolkit dataset`: generate, describe, check, split and download data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.common import say

if TYPE_CHECKING:
    from toolkit.data.check import Finding
    from toolkit.data.types import Dataset

dataset_app = typer.Typer(
    help="Data sets: sample, info, check, split, download.", no_args_is_help=True
)

_Directory = Annotated[
    Path | None,
    typer.Argument(metavar="DIR", help="Data set, such as mvtec/bottle; default: the sample."),
]
_MaskThreshold = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Mask values above N are defect; default: any but 0, see docs/convert.md."
    ),
]


_Layout = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Read DIR as this layout, see docs/data.md; default: found."),
]


@dataset_app.command("sample")
def sample_command(
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; default: the home's datasets/sample.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 256,
    train_good: Annotated[int, typer.Option(help="Images in train/good.")] = 40,
    test_good: Annotated[int, typer.Option(help="Images in test/good.")] = 12,
    per_defect: Annotated[int, typer.Option(help="Images of each defect type.")] = 10,
) -> None:
    """Render synthetic bottles with three defect types and exact masks."""
    from toolkit.data.synthetic import make_sample
    from toolkit.home import datasets_dir

    with _steps("render") as progress:
        made = make_sample(
            out if out is not None else datasets_dir() / "sample",
            seed=seed,
            size=size,
            train_good=train_good,
            test_good=test_good,
            per_defect=per_defect,
            progress=progress,
        )
    print(f"synthetic sample: {made}")


@dataset_app.command("info")
def info_command(
    directory: _Directory = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    mask_threshold: _MaskThreshold = None,
    layout: _Layout = None,
) -> None:
    """Print classes, counts, sizes, defects, and the product's symmetry and alignment."""
    from toolkit.data.info import dataset_info

    dataset = _open(directory, mask_threshold, layout)
    info = dataset_info(dataset, with_pose=True, show_progress=True)
    if as_json:
        print(json.dumps(info.as_dict(), indent=2))
        return
    from toolkit.cli.dataset_tables import print_info

    print_info(info)


@dataset_app.command("check")
def check_command(
    directory: _Directory = None,
    mask_threshold: _MaskThreshold = None,
    layout: _Layout = None,
) -> None:
    """List every unreadable, unpaired, wrongly sized, empty, copied or stray file.

    Exit status 1 if there is any. Trivial features that give labels away are warnings alone.
    """
    _check(directory, mask_threshold, layout)


@dataset_app.command("split")
def split_command(
    directory: _Directory = None,
    protocol: Annotated[str, typer.Option(help="official, supervised or balanced.")] = "supervised",
    folds: Annotated[int, typer.Option(help="Number of folds (not for official).")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the assignment.")] = 0,
    per_class: Annotated[int, typer.Option(help="Images of each class (for balanced).")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="File; default: <dataset>-<protocol>.split.json here.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write the split file that makes runs comparable, and print the counts."""
    from toolkit.cli.dataset_tables import print_plan
    from toolkit.data.protocols import make_plan
    from toolkit.files import OutputError

    dataset = _open(directory)
    path = out if out is not None else Path(f"{dataset.name}-{protocol}.split.json")
    plan = make_plan(dataset, protocol=protocol, folds=folds, seed=seed, per_class=per_class)
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: already there; choose another --out or add --overwrite")
    plan.write(path)
    print_plan(plan)
    print(f"split {plan.hash}: {path}")


@dataset_app.command("download")
def download_command(
    category: Annotated[str, typer.Argument(help="Name of a data card, such as bottle.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read and accept the licence.")
    ] = False,
    archive: Annotated[
        Path | None, typer.Option(help="Take this tar or zip (Kaggle's too) instead.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; default: the home's datasets/<category>.")
    ] = None,
) -> None:
    """Download a public data set, verify it, unpack it safely and check it."""
    from toolkit.data.dataset_cards import load_card
    from toolkit.data.download import download_dataset
    from toolkit.home import datasets_dir

    card = load_card(category)
    say(card.title)
    if card.licence is not None:
        say(f"licence: {card.licence}, {card.licence_url}")
    if card.citation is not None:
        say(f"cite: {card.citation}")
    with _megabytes("unpack" if archive is not None else "download") as progress:
        folder = download_dataset(
            category,
            target=out if out is not None else datasets_dir() / category,
            accept_licence=accept_licence,
            archive=archive,
            progress=progress,
        )
    print(f"{category}: {folder}")
    _check(folder)


def _open(
    directory: Path | None, mask_threshold: int | None = None, layout: str | None = None
) -> Dataset:
    from toolkit.data.layouts import load_dataset

    if directory is None:
        from toolkit.data.synthetic import default_sample

        with _steps("render") as progress:
            directory = default_sample(progress=progress)
        say(f"no DIR given: using the synthetic sample in {directory}")
    return load_dataset(directory, layout=layout, mask_threshold=mask_threshold)


def _check(
    directory: Path | None, mask_threshold: int | None = None, layout: str | None = None
) -> None:
    from toolkit.cli.dataset_tables import print_findings, print_shortcuts
    from toolkit.data.check import check_dataset
    from toolkit.data.shortcuts import find_shortcuts

    dataset = _open(directory, mask_threshold, layout)
    findings: list[Finding] = check_dataset(dataset, show_progress=True)
    print_findings(findings, dataset)
    if not any(f.severity == "error" for f in findings):  # every file can be read
        print_shortcuts(find_shortcuts(dataset, show_progress=True))
    if findings:
        raise typer.Exit(1)


@contextmanager
def _steps(title: str, scale: float = 1) -> Iterator[Callable[[int, int | None], None]]:
    """Show progress of work that reports (done, total); the total is known when it begins."""
    from toolkit.progress import Progress, progress

    with ExitStack() as stack:
        shown: list[Progress] = []
        before = 0

        def update(done: int, total: int | None) -> None:
            nonlocal before
            if not shown:
                whole = None if total is None else total / scale
                shown.append(stack.enter_context(progress(title, whole)))
            shown[0].advance((done - before) / scale)
            before = done

        yield update


@contextmanager
def _megabytes(title: str) -> Iterator[Callable[[int, int | None], None]]:
    with _steps(f"{title} (MB)", 1e6) as update:
        yield update
