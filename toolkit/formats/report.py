"""What a conversion says it did: every image, region and dropped thing is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import DataError
from toolkit.files import read_json

REPORT_NAME = "report.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One input that is wrong.

    Attributes:
        kind: short name, such as `empty mask`.
        message: one line that names the file and the mend.
    """

    kind: str
    message: str


@dataclass
class Report:
    """Counts of one conversion.

    Attributes:
        dataset: name of the data set.
        to: the target format.
        out: the folder that was written.
        classes: class names in the order of their indices.
        images: images written, per part and per label.
        regions: regions written, per class.
        found: connected components in the masks, before merging and dropping.
        merged: components that were joined to another one of the same defect.
        dropped: regions or images left out, per reason.
        problems: inputs that are wrong; those that could not be used were skipped.
        backgrounds: good training images chosen and available.
        up_to_date: whether an earlier output was found to be current and was left as it is.
        seconds: wall time.
    """

    dataset: str
    to: str
    out: Path
    classes: tuple[str, ...]
    fingerprint: str = ""
    split_hash: str | None = None
    fold: int | None = None
    images: dict[str, Counter[str]] = field(default_factory=dict)
    regions: Counter[str] = field(default_factory=Counter)
    found: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    backgrounds: tuple[int, int] = (0, 0)
    up_to_date: bool = False
    seconds: float = 0.0

    @property
    def n_images(self) -> int:
        """Images written, all parts together."""
        return sum(sum(labels.values()) for labels in self.images.values())

    @property
    def n_regions(self) -> int:
        """Regions written, all classes together."""
        return sum(self.regions.values())

    def record(self) -> dict[str, Any]:
        """Return the report as JSON values, without the wall time: equal work, equal bytes."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "to": self.to,
            "classes": list(self.classes),
            "fingerprint": self.fingerprint,
            "split": self.split_hash,
            "fold": self.fold,
            "images": {part: dict(labels) for part, labels in self.images.items()},
            "regions": dict(self.regions),
            "found": self.found,
            "merged": self.merged,
            "dropped": dict(self.dropped),
            "problems": [{"kind": p.kind, "message": p.message} for p in self.problems],
            "backgrounds": {"chosen": self.backgrounds[0], "available": self.backgrounds[1]},
        }

    @classmethod
    def read(cls, folder: Path) -> Report:
        """Read the report of a finished conversion.

        Raises:
            ToolkitError: there is none, or it is of another schema.
        """
        path = folder / REPORT_NAME
        record = read_json(path)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise DataError(f"{path}: not a conversion report of schema {SCHEMA}; convert anew")
        return cls(
            dataset=record["dataset"],
            to=record["to"],
            out=folder,
            classes=tuple(record["classes"]),
            fingerprint=record["fingerprint"],
            split_hash=record["split"],
            fold=record["fold"],
            images={part: Counter(labels) for part, labels in record["images"].items()},
            regions=Counter(record["regions"]),
            found=record["found"],
            merged=record["merged"],
            dropped=Counter(record["dropped"]),
            problems=[Problem(**problem) for problem in record["problems"]],
            backgrounds=(record["backgrounds"]["chosen"], record["backgrounds"]["available"]),
        )
