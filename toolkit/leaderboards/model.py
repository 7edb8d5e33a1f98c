"""Types of the leaderboard: rows in groups that may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from toolkit.leaderboards.columns import DEFAULT
from toolkit.leaderboards.published import Reference
from toolkit.metrics.values import Value

Part: TypeAlias = Literal["test", "val"]
"""Which images metrics are of."""


@dataclass(frozen=True)
class Row:
    """One entry of the leaderboard: a method with its settings, all folds pooled.

    Attributes:
        entry: name of the row.
        method: name of the method.
        seeds: seeds of the runs; metrics are the mean over them.
        values: the metrics by column name.
        spread: standard deviation over the seeds (n - 1) by column; empty for one seed.
        intervals: 95 % bootstrap intervals of the first seed, by name.
        labels: number and kind of the training labels, in words.
        weights: the pretrained weights that training started from.
        weights_source: the origin of these weights.
        score_description: how the method computes its image-level score.
        runs: the run directories.
        published: `value` and `source` of a published result, where the benchmark file names one.
        prompted: IoU under true prompts, zero-shot and fine-tuned, where the method reports it
            and the row stands for one run.
        prompts_source: the origin of the text prompts; empty without prompts.
        retention: mAP on the classes of the base model before and after fine-tuning, where
            measured.
        rank: 1 + the number of rows with a better value in the column of the order; None without a
            value.
        in_top_group: whether the row is the best one, or not significantly different from it;
            false where differences cannot be tested.
    """

    entry: str
    method: str
    seeds: tuple[int, ...]
    values: Mapping[str, Value]
    intervals: Mapping[str, Any]
    labels: str
    weights: str
    weights_source: str
    score_description: str
    runs: tuple[Path, ...]
    spread: Mapping[str, float] = field(default_factory=dict)
    published: Mapping[str, Any] | None = None
    prompted: Mapping[str, Any] = field(default_factory=dict)
    prompts_source: str = ""
    retention: Mapping[str, Any] = field(default_factory=dict)
    rank: int | None = None
    in_top_group: bool = False

    @property
    def seed(self) -> int:
        """The first seed."""
        return self.seeds[0]


@dataclass(frozen=True)
class Difference:
    """The difference of two rows on the same images.

    Attributes:
        first, second: indices of the rows in the group; the first is ranked above the second.
        value: metric of the first minus that of the second.
        low, high: 95 % interval of it, from the paired bootstrap.
    """

    first: int
    second: int
    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: of the same data, split and folds.

    Attributes:
        data: name of the data set.
        protocol: how it was split.
        split_hash: hash of the split.
        fingerprint: of the data, masks included.
        folds: the folds that were tested.
        test_images: number of images in the pooled test (or validation) parts.
        test_defects: how many of them are defective.
        hardware: of the first run.
        rows: in the order of the column `sort`, best first.
        columns: names of the columns to display.
        sort: name of the column that the rows are sorted and ranked by.
        differences: of each two rows in that column, where it can be resampled.
        references: published results to display beside the rows.
        all_intervals: display every interval, and not only that of the column of the order.
        warnings: what is to be known of the data, such as a shortcut that gives labels away.
        part: which images the metrics are of, `test` or `val`.
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
    warnings: tuple[str, ...] = ()
    part: Part = "test"

    @property
    def tested(self) -> str:
        """The folds, and the part where it is not the test part."""
        folds = ", ".join(map(str, self.folds))
        one = len(self.folds) == 1
        named = f"fold {folds}" if one else f"folds {folds} pooled"
        if self.part == "test":
            return named
        return f"validation {'part' if one else 'parts'} of {named}"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows; equal names are extended by the seed, or by the run."""
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
