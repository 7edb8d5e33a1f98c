"""Facts about a data set: classes, counts, image sizes, how large the defects are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from toolkit.data.images import image_size, read_regions
from toolkit.data.splits import part_counts
from toolkit.data.symmetry import ProductPose, product_pose
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
        with_mask: number of images whose defects have a ground-truth mask or outline.
        with_boxes: number of images of whose defects only boxes are known.
        area_percent: defect area in percent of the image, that of boxes where only they are known;
            None without either.
        regions: number of 8-connected regions per mask (several masks of one image are united), or
            of boxes and outlines of an annotation file; None without either.
    """

    label: str
    train: int
    test: int
    with_mask: int
    with_boxes: int
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
        notes: what was assumed when it was read.
        fingerprint: `Dataset.fingerprint`.
        images: number of images.
        defect_classes: defect types, sorted.
        classes: one per label, `good` first.
        image_kinds: distinct sizes and channels of the images, the most frequent first.
        pose: symmetry and alignment of the product; None where they were not asked for.
    """

    name: str
    root: str
    layout: str
    notes: tuple[str, ...]
    fingerprint: str
    images: int
    defect_classes: tuple[str, ...]
    classes: tuple[ClassInfo, ...]
    image_kinds: tuple[ImageKind, ...]
    pose: ProductPose | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        record = asdict(self)
        for made, label in zip(record["classes"], self.classes, strict=True):
            made["images"] = label.images
        return {**record, "defect_class_count": len(self.defect_classes)}


def dataset_info(dataset: Dataset, *, with_pose: bool = False, show_progress: bool = False) -> Info:
    """Collect the facts about a data set.

    Of the images only headers are read (and bytes, for the fingerprint); masks are decoded.

    Args:
        dataset: the data set.
        with_pose: whether symmetry and alignment are measured, on at most 40 good images.
        show_progress: whether to show progress on standard error.

    Raises:
        DataError: a file cannot be read, or a mask has not its image's size.
    """
    kinds: Counter[tuple[int, int, int]] = Counter()
    areas: dict[str, list[float]] = defaultdict(list)
    regions: dict[str, list[int]] = defaultdict(list)
    for sample in track(dataset.samples, "read", len(dataset), show=show_progress):
        kinds[image_size(sample.image)] += 1
        if sample.has_boxes:
            found = [region for _, region in read_regions(sample)]
            width, height, _ = image_size(sample.image)
            share = min(1.0, sum(r.area for r in found) / (width * height))  # boxes may overlap
            areas[sample.label].append(100 * share)
            regions[sample.label].append(len(found))
    return Info(
        name=dataset.name,
        root=str(dataset.root),
        layout=dataset.layout,
        notes=dataset.notes,
        fingerprint=dataset.fingerprint,
        images=len(dataset),
        defect_classes=dataset.classes,
        classes=_classes(dataset, areas, regions),
        image_kinds=tuple(ImageKind(*kind, number) for kind, number in kinds.most_common()),
        pose=product_pose(dataset) if with_pose else None,
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
            with_mask=sum(s.has_mask for s in dataset if s.label == label),
            with_boxes=sum(s.has_boxes and not s.has_mask for s in dataset if s.label == label),
            area_percent=_range(areas.get(label, ())),
            regions=_range(regions.get(label, ())),
        )
        for label in part_counts(dataset)
    )


def _range(values: Sequence[float]) -> Range | None:
    return Range(min(values), median(values), max(values)) if values else None
