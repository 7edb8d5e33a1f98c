"""Check a data set cheaply, before hours are spent on it: headers and file names only."""

from __future__ import annotations

from toolkit.data.images import image_size, whole_image_size, wrong_mask_size
from toolkit.data.layouts import unpaired_masks
from toolkit.data.types import Dataset
from toolkit.errors import DataError, printable


def validate_dataset(dataset: Dataset) -> None:
    """Check that every image and mask exists, is readable, of one size and paired.

    Contents are not decoded; `toolkit dataset check` does that and lists every fault at once.

    Raises:
        DataError: names the first file that cannot be used, and the fix.
    """
    orphans = unpaired_masks(dataset)
    if orphans:
        raise DataError(
            f"{printable(orphans[0])}: mask without image; add the image or remove the mask"
        )
    has_boxes = any(sample.has_boxes for sample in dataset)
    for sample in dataset:
        size = whole_image_size(sample.image)[:2]
        if sample.is_defect and has_boxes and not sample.has_boxes:
            raise DataError(
                f"{printable(sample.image)}: defective image without mask; add its mask or remove "
                "the image"
            )
        for mask in sample.masks:
            mask_size = image_size(mask)[:2]
            if mask_size != size:
                raise wrong_mask_size(mask, mask_size, sample.image, size)
