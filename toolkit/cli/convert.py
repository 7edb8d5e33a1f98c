"""`toolkit convert`: write a data set in a training format, or its labels back as masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from toolkit.cli.common import open_dataset, open_split, say
from toolkit.errors import ConfigError, printable

if TYPE_CHECKING:
    from toolkit.data.splits import Split
    from toolkit.data.types import Dataset
    from toolkit.formats.options import Images
    from toolkit.formats.report import Report

_MAX_PROBLEMS = 50
_SPLITS = ("supervised", "balanced", "official", "none")


def convert_command(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="yolo, yolo-seg, coco, sam, imagefolder; or masks, from a converted folder.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Data set; default: the synthetic sample."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Default: ./converted/<dataset>-<format>."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="mvtec, visa, yolo, coco …, see docs/data.md; default: detected."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="FILE|PROTOCOL",
            help="Split file, or supervised, balanced, official; none keeps the authors' parts.",
        ),
    ] = "supervised",
    fold: Annotated[int, typer.Option(help="Fold of the split.")] = 0,
    images: Annotated[
        str, typer.Option(metavar="link|hardlink|copy", help="How images get into the output.")
    ] = "link",
    backgrounds: Annotated[
        str,
        typer.Option(
            metavar="N|FRACTION|all",
            help="Good training images: a number, a share of the training part, or all.",
        ),
    ] = "all",
    connectivity: Annotated[int, typer.Option(help="8: diagonal neighbours touch; or 4.")] = 8,
    min_area: Annotated[int, typer.Option(help="Drop regions of fewer pixels.")] = 1,
    merge_distance: Annotated[
        float, typer.Option(help="Join regions at most this many pixels apart; 0 joins none.")
    ] = 0.0,
    classes: Annotated[
        str,
        typer.Option(metavar="defect-type|single|FILE", help="Or a YAML file of type: class."),
    ] = "defect-type",
    mask_values: Annotated[
        str | None,
        typer.Option(
            metavar="1=NAME,…|FILE", help="Class of each mask value, for class-index masks."
        ),
    ] = None,
    mask_threshold: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Mask values above N are defect; default: any but 0, or 127 if edges are grey.",
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize images and geometry to this longest side.")
    ] = None,
    segmentation: Annotated[
        str, typer.Option(metavar="rle|polygon", help="How coco writes masks.")
    ] = "rle",
    points: Annotated[
        int, typer.Option(help="Positive and as many negative points per region (sam).")
    ] = 3,
    box_jitter: Annotated[
        float, typer.Option(help="Noise of the jittered box, as share of its side (sam).")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    preview: Annotated[
        int, typer.Option(metavar="N", help="Write preview.png with N labelled images.")
    ] = 0,
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first wrong input.")
    ] = False,
) -> None:
    """Convert masks exactly; count what is left out; report wrong input (exit status 1)."""
    if to == "masks":
        _print_report(_back_to_masks(data, out=out, overwrite=overwrite))
        return
    from toolkit.formats.convert import convert
    from toolkit.formats.options import parse_backgrounds, read_classes, read_mask_values
    from toolkit.formats.report import recall_hashes
    from toolkit.progress import progress

    dataset = open_dataset(data) if layout is None else _read(data, layout)
    target = out if out is not None else Path("converted") / f"{dataset.name}-{to}"
    recall_hashes(dataset, target)
    report = convert(
        dataset,
        to=to,
        out=target,
        split=_split(dataset, split, fold=fold),
        images=cast("Images", images),
        backgrounds=parse_backgrounds(backgrounds, option="--backgrounds"),
        connectivity=connectivity,
        min_area=min_area,
        merge_distance=merge_distance,
        classes=read_classes(classes),
        mask_values=read_mask_values(mask_values) if mask_values else None,
        mask_threshold=mask_threshold,
        image_size=image_size,
        segmentation=cast("Literal['rle', 'polygon']", segmentation),
        points=points,
        box_jitter=box_jitter,
        seed=seed,
        preview=preview,
        workers=workers,
        overwrite=overwrite,
        strict=strict,
        progress=lambda total: progress(f"convert to {to}", total),
    )
    _print_report(report)
    if report.problems:
        raise typer.Exit(1)


def _read(data: Path | None, layout: str) -> Dataset:
    from toolkit.data.layouts import load_dataset

    if data is None:
        raise ConfigError("--layout is that of --data: give --data DIR too")
    return load_dataset(data, layout=layout)


def _split(dataset: Dataset, split: str, *, fold: int) -> Split | None:
    if split == "none":
        return None
    if split in _SPLITS:
        return open_split(dataset, None, protocol=split, fold=fold)
    return open_split(dataset, Path(split), protocol="supervised", fold=fold)


def _back_to_masks(data: Path | None, *, out: Path | None, overwrite: bool) -> Report:
    from toolkit.formats.masks import convert_to_masks
    from toolkit.progress import progress

    if data is None:
        raise ConfigError("--to masks reads a converted folder: give it with --data DIR")
    target = out if out is not None else Path("converted") / f"{data.resolve().name}-masks"
    return convert_to_masks(
        data,
        out=target,
        overwrite=overwrite,
        progress=lambda total: progress("convert to masks", total),
    )


def _print_report(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from toolkit.formats.pipeline import PARTS

    console = Console(highlight=False, markup=False, soft_wrap=True)
    out = printable(report.out)
    if report.up_to_date:
        console.print(f"{out}: up to date, nothing changed ({report.seconds:.2f} s)")
    labels = sorted({name for counts in report.images.values() for name in counts})
    table = Table(title=Text(f"{printable(report.dataset)} → {report.to}"), title_justify="left")
    table.add_column("images")
    parts = [part for part in PARTS if part in report.images]
    for part in parts:
        table.add_column(part, justify="right")
    for label in labels:
        table.add_row(Text(printable(label)), *(str(report.images[part][label]) for part in parts))
    console.print(table)
    per_class = ", ".join(
        f"{printable(name)} {count}" for name, count in sorted(report.regions.items())
    )
    console.print(f"{report.n_regions} regions" + (f": {per_class}" if per_class else ""))
    if report.merged:
        console.print(f"{report.found} components, {report.merged} of them joined to others")
    for reason, count in sorted(report.dropped.items()):
        console.print(f"left out: {count} × {reason}")
    if report.grey_edges:
        console.print(
            f"{report.grey_edges} masks with grey edges, cut at 127; choose another level with "
            "--mask-threshold"
        )
    chosen, available = report.backgrounds
    if available:
        console.print(f"good training images: {chosen} of {available}")
    for problem in report.problems[:_MAX_PROBLEMS]:
        say(f"{problem.kind}: {printable(problem.message)}")
    if len(report.problems) > _MAX_PROBLEMS:
        say(f"and {len(report.problems) - _MAX_PROBLEMS} more in {out}/report.json")
    if not report.up_to_date:
        rate = report.n_images / max(report.seconds, 1e-9)
        console.print(f"{out}: written in {report.seconds:.2f} s ({rate:.0f} images/s)")
