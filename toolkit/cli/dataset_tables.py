"""Print facts, findings and splits for `toolkit dataset`, in 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolkit.data.alignment import ALIGNED
from toolkit.data.check import Finding
from toolkit.data.info import ClassInfo, Info, Range
from toolkit.data.layouts import LAYOUT_WORDS
from toolkit.data.shortcuts import Shortcut
from toolkit.data.splits import TEST, TRAIN, VAL, SplitPlan
from toolkit.data.symmetry import ProductPose
from toolkit.data.types import GOOD, Dataset
from toolkit.errors import printable

_MAX_KINDS = 3
_CHANNELS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}


def print_info(info: Info) -> None:
    """Print the facts about a data set."""
    console = _console()
    number = len(info.defect_classes)
    name = (printable(info.name), "bold")
    _line(console, Text.assemble(name, f" in {printable(info.root)}"))
    _line(console, f"read as {info.layout}: {LAYOUT_WORDS[info.layout]}")
    for note in info.notes:
        _line(console, Text(printable(note), "yellow"))
    for line in _pose_lines(info.pose) if info.pose is not None else ():
        _line(console, line)
    _line(console, f"fingerprint {info.fingerprint}")
    _line(console, f"{info.images} images: " + ", ".join(_kinds(info)))
    _line(
        console,
        f"{number} defect class{'es' * (number != 1)}: {printable(', '.join(info.defect_classes))}",
    )
    table = _table("class")
    titles = ("train", "test", "all", "masks", "area %\nmin/median/max", "regions\nmin/median/max")
    for title in titles:
        table.add_column(title, justify="right")
    for label in info.classes:
        table.add_row(
            Text(printable(label.label)),
            str(label.train),
            str(label.test),
            str(label.images),
            _masks(label),
            _range(label.area_percent, ".1f"),
            _range(label.regions, "g"),
        )
    table.add_section()
    train, test = sum(c.train for c in info.classes), sum(c.test for c in info.classes)
    masks = sum(c.with_mask for c in info.classes)
    table.add_row("all", *map(str, (train, test, train + test, masks)))
    console.print(table)
    if any(label.with_boxes for label in info.classes):
        _line(console, "area: of the boxes in an image; regions: its boxes")
    elif masks:
        _line(console, "area: defect pixels of an image; regions: 8-connected, of an image's mask")


def _pose_lines(pose: ProductPose) -> Iterator[str]:
    """Describe symmetry and alignment."""
    if pose.symmetry is not None:
        flips = ", ".join(pose.symmetry.flips) or "none"
        told = "data card" if pose.source == "card" else "measured on good images"
        yield f"symmetry: flips {flips}; rotation {pose.symmetry.rotation} ({told})"
    if pose.alignment is not None:
        is_aligned = pose.alignment >= ALIGNED
        words = "aligned" if is_aligned else "not aligned"
        yield f"good images: {words} (place explains {100 * pose.alignment:.0f} % of their edges)"
    if pose.symmetry is not None and pose.source != "card":
        yield "to set them: a data card, see docs/data.md"


def print_shortcuts(shortcuts: Sequence[Shortcut]) -> None:
    """Print one line per shortcut and what it means; nothing if there is none."""
    console = _console()
    for one in shortcuts:
        _line(console, Text.assemble((f"{'warning':8}{'shortcut':11}", "yellow"), str(one)))
    if any(one.second.startswith("defects") for one in shortcuts):
        _line(console, "supervised methods may learn this and no defect: see docs/data.md")
    if any(one.second == "test/good" for one in shortcuts):
        _line(console, "good-only methods may take this for a defect: see docs/data.md")


def print_findings(findings: Sequence[Finding], dataset: Dataset) -> None:
    """Print one line per finding and the counts, or that nothing was found."""
    console = _console()
    if not findings:
        text = f"{printable(dataset.name)}: {len(dataset)} images checked, nothing found"
        _line(console, Text(text, "green"))
        return
    for finding in findings:
        style = "red" if finding.severity == "error" else "yellow"
        path = finding.path
        if path.is_relative_to(dataset.root):
            path = path.relative_to(dataset.root)
        head = (f"{finding.severity:8}{finding.kind:11}", style)
        _line(console, Text.assemble(head, f"{printable(path)}: {finding.message}"))
    counts = Counter(f.severity for f in findings)
    words = [f"{n} {name}{'s' * (n != 1)}" for name, n in sorted(counts.items())]
    _line(console, f"{printable(dataset.name)}: {', '.join(words)} in {len(dataset)} images")


def print_plan(plan: SplitPlan) -> None:
    """Print how many images of each class went where, and the parts of each fold."""
    console = _console()
    official = plan.protocol == "official"
    columns: list[str | int] = [TRAIN, VAL, TEST] if official else [TRAIN, *range(plan.folds)]
    counts = {c: _slot_counts(plan, c) for c in columns}
    labels = sorted({s.label for s in plan.slots}, key=lambda label: (label != GOOD, label))
    _line(
        console,
        Text.assemble((printable(plan.dataset), "bold"), f", {plan.protocol}, seed {plan.seed}"),
    )
    table = _table("class")
    for column in columns:
        table.add_column(_slot_title(column, official), justify="right")
    table.add_column("all", justify="right")
    for label in labels:
        numbers = [counts[column][label] for column in columns]
        table.add_row(Text(printable(label)), *map(str, numbers), str(sum(numbers)))
    table.add_section()
    sums = [counts[column].total() for column in columns]
    table.add_row("all", *map(str, sums), str(sum(sums)))
    console.print(table)
    if not official:
        _line(console, "In fold i: fold i tests, fold i+1 validates, all the rest trains.")
        _line(console, "Images of each part, in brackets the defective ones:")
        console.print(_parts(plan, counts))


def _slot_counts(plan: SplitPlan, slot: str | int) -> Counter[str]:
    """Count the images of one slot by label."""
    return Counter(s.label for s in plan.slots if s.slot == slot)


def _slot_title(slot: str | int, official: bool) -> str:
    if isinstance(slot, int):
        return "fold\n0" if slot == 0 else f"\n{slot}"  # ten folds fit, too
    return slot if official else f"always\n{slot}"


def _parts(plan: SplitPlan, counts: dict[str | int, Counter[str]]) -> Table:
    table = _table("fold")
    for part in (TRAIN, VAL, TEST):
        table.add_column(part, justify="right")
    everything = sum(counts.values(), Counter[str]())
    for fold in range(plan.folds):
        test, val = counts[fold], counts[(fold + 1) % plan.folds]
        train = everything - test - val
        table.add_row(str(fold), *(_with_defects(part) for part in (train, val, test)))
    return table


def _with_defects(counts: Counter[str]) -> str:
    return f"{counts.total()} ({counts.total() - counts[GOOD]})"


def _kinds(info: Info) -> list[str]:
    """Describe the image sizes: all of them, or the range and the most frequent of many."""
    kinds = [
        f"{k.images if len(info.image_kinds) > 1 else 'all'} {k.width}x{k.height} "
        f"{_CHANNELS.get(k.channels, f'{k.channels} channels')}"
        for k in info.image_kinds
    ]
    if len(kinds) <= _MAX_KINDS:
        return kinds
    sizes = []
    for side in ("width", "height"):
        values = sorted(v for k in info.image_kinds for v in [getattr(k, side)] * k.images)
        sizes.append((values[0], median(values), values[-1]))
    lowest, middle, highest = (f"{w:g}x{h:g}" for w, h in zip(*sizes, strict=True))
    return [
        f"{len(kinds)} sizes from {lowest} to {highest}",
        f"median {middle}",
        f"most frequent {', '.join(kinds[:_MAX_KINDS])}",
    ]


def _masks(label: ClassInfo) -> str:
    found = [str(label.with_mask)] * bool(label.with_mask)
    return " + ".join([*found, *[f"{label.with_boxes} boxes"] * bool(label.with_boxes)]) or "–"


def _range(values: Range | None, form: str) -> str:
    if values is None:
        return "–"
    return "/".join(format(v, form) for v in (values.min, values.median, values.max))


def _line(console: Console, text: str | Text) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    return table


def _console() -> Console:
    return Console()
