"""What a leaderboard is made of: rows in groups that may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.leaderboard.columns import DEFAULT
from toolkit.metrics.values import Value


@dataclass(frozen=True)
class Row:
    """One entry of the leaderboard: one method with one config, its folds pooled.

    Attributes:
        entry: name of the row.
        method: name of the method.
        seed: of its random numbers; the first of several.
        values: the figures by column name; the mean over the seeds.
        intervals: 95 % bootstrap intervals of image-level figures, by name (of the first seed).
        labels: what it was told of defects, in words.
        weights: the pretrained weights it started from.
        weights_source: where they came from.
        scoring: where its image-level score comes from.
        fit_seconds: time to fit, summed over the folds; the mean over the seeds.
        ms_per_image: median time from file to prediction.
        prompted: IoU under true prompts, zero-shot and fine-tuned, where the method reports it
            and the row stands for one run.
        runs: the run directories.
        seeds: all seeds.
        spread: standard deviation over the seeds (n - 1) by column; empty for one seed.
        published: `value` and `source` of a figure that others published, where one was named.
        prompts_source: where the text prompts of its classes come from; empty without prompts.
        forgetting: mAP on classes that the base knew, before and after, where it was measured.
        rank: 1 + the number of rows that are significantly better; None where that is not known.
    """

    entry: str
    method: str
    seed: int
    values: Mapping[str, Value]
    intervals: Mapping[str, Any]
    labels: str
    weights: str
    weights_source: str
    scoring: str
    fit_seconds: float
    ms_per_image: float | None
    prompted: Mapping[str, Any]
    runs: tuple[Path, ...]
    seeds: tuple[int, ...] = ()
    spread: Mapping[str, float] = field(default_factory=dict)
    published: Mapping[str, Any] | None = None
    prompts_source: str = ""
    forgetting: Mapping[str, Any] = field(default_factory=dict)
    rank: int | None = None


@dataclass(frozen=True)
class Difference:
    """Two rows on the same images.

    Attributes:
        first, second: places of the rows in the group; the first stands above the second.
        value: figure of the first minus that of the second.
        low, high: 95 % interval of it, from the paired bootstrap.
    """

    first: int
    second: int
    value: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Reference:
    """Figures that others published, on their own terms.

    Attributes:
        method: as its authors call it.
        data: the category, or the name of a mean over several, such as `mvtec`.
        values: by column name, as shares of 1.
        source: who says so.
        covers: the data sets beside which it is shown.
    """

    method: str
    data: str
    values: Mapping[str, float]
    source: str
    covers: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: the same data, split and folds.

    Attributes:
        data: name of the data set.
        protocol: how it was split.
        split_hash: of the split file.
        fingerprint: of the data, masks included.
        folds: the folds that were tested.
        test_images: number of images in the pooled test parts.
        test_defects: how many of them are defective.
        hardware: of the first run.
        rows: best in the column `sort` first.
        columns: names of the columns to show.
        sort: name of the column that the rows are sorted and ranked by.
        differences: of each two rows in that column, where it can be resampled.
        references: published figures to show beside the rows.
        all_intervals: show every interval, and not only that of the column of the order.
    """

    data: str
    protocol: str
    split_hash: str
    fingerprint: str
    folds: tuple[int, ...]
    test_images: int
    test_defects: int
    hardware: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = DEFAULT
    sort: str = "auroc"
    differences: tuple[Difference, ...] = ()
    references: tuple[Reference, ...] = ()
    all_intervals: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows; where several have one name, what tells them apart is said."""
        entries = [row.entry for row in self.rows]
        seeded = [(row.entry, row.seed) for row in self.rows]
        names = []
        for row in self.rows:
            if entries.count(row.entry) == 1:
                names.append(row.entry)
            elif seeded.count((row.entry, row.seed)) == 1:
                names.append(f"{row.entry}, seed {row.seed}")
            else:
                names.append(f"{row.entry}, {row.method}/{row.runs[0].name}")
        return tuple(names)


@dataclass(frozen=True)
class Board:
    """All groups, and the runs that could not be shown."""

    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = field(default=())
