"""Facts about a data set: classes, counts, image sizes, how large the defects are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from toolkit.data.images import image_size, read_truth
from toolkit.data.regions import regions_of
from toolkit.data.splits import part_counts
from toolkit.data.types import Dataset
from toolkit.progress import track


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest, median and largest of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True)
class ImageKind:
    """How many images have one size and number of channels."""

    width: int
    height: int
    channels: int
    images: int


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One label.

    Attributes:
        label: `good` or the defect type.
        train: number of images in the part `train`.
        test: number of images in the part `test`.
        with_mask: number of images that have a ground-truth mask.
        area_percent: defect area in percent of the image; None without masks.
        regions: number of 8-connected regions per mask (several masks of one image are united);
            None without masks.
    """

    label: str
    train: int
    test: int
    with_mask: int
    area_percent: Range | None
    regions: Range | None

    @property
    def images(self) -> int:
        """Number of images in both parts."""
        return self.train + self.test


@dataclass(frozen=True)
class Info:
    """Facts about one data set.

    Attributes:
        name: name of the data set.
        root: its folder.
        layout: name of the layout that read it.
        fingerprint: `Dataset.fingerprint`.
        images: number of images.
        defect_classes: defect types, sorted.
        classes: one per label, `good` first.
        image_kinds: distinct sizes and channels of the images, the most frequent first.
    """

    name: str
    root: str
    layout: str
    fingerprint: str
    images: int
    defect_classes: tuple[str, ...]
    classes: tuple[ClassInfo, ...]
    image_kinds: tuple[ImageKind, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        record = asdict(self)
        for made, label in zip(record["classes"], self.classes, strict=True):
            made["images"] = label.images
        return {**record, "defect_class_count": len(self.defect_classes)}


def dataset_info(dataset: Dataset, *, show_progress: bool = False) -> Info:
    """Collect the facts about a data set.

    Of the images only headers are read (and bytes, for the fingerprint); masks are decoded.

    Args:
        dataset: the data set.
        show_progress: whether to show progress on standard error.

    Raises:
        DataError: a file cannot be read, or a mask has not its image's size.
    """
    kinds: Counter[tuple[int, int, int]] = Counter()
    areas: dict[str, list[float]] = defaultdict(list)
    regions: dict[str, list[int]] = defaultdict(list)
    for sample in track(dataset.samples, "read", len(dataset), show=show_progress):
        kinds[image_size(sample.image)] += 1
        if sample.masks:
            truth = read_truth(sample)
            found = regions_of(truth)
            areas[sample.label].append(100 * sum(r.area for r in found) / truth.size)
            regions[sample.label].append(len(found))
    return Info(
        name=dataset.name,
        root=str(dataset.root),
        layout=dataset.layout,
        fingerprint=dataset.fingerprint,
        images=len(dataset),
        defect_classes=dataset.classes,
        classes=_classes(dataset, areas, regions),
        image_kinds=tuple(ImageKind(*kind, number) for kind, number in kinds.most_common()),
    )


def _classes(
    dataset: Dataset, areas: Mapping[str, list[float]], regions: Mapping[str, list[int]]
) -> tuple[ClassInfo, ...]:
    train = part_counts(s for s in dataset if s.part == "train")
    test = part_counts(s for s in dataset if s.part == "test")
    return tuple(
        ClassInfo(
            label=label,
            train=train.get(label, 0),
            test=test.get(label, 0),
            with_mask=len(areas.get(label, ())),
            area_percent=_range(areas.get(label, ())),
            regions=_range(regions.get(label, ())),
        )
        for label in part_counts(dataset)
    )


def _range(values: Sequence[float]) -> Range | None:
    return Range(min(values), median(values), max(values)) if values else None
