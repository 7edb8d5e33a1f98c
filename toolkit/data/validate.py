"""A cheap look at a data set before hours are spent on it: headers and file names only."""

from __future__ import annotations

from toolkit.data.images import image_size, whole_image_size
from toolkit.data.layouts import unpaired_masks
from toolkit.data.types import Dataset
from toolkit.errors import DataError


def validate_dataset(dataset: Dataset) -> None:
    """See to it that every image and mask is there, readable, of one size and paired.

    Contents are not decoded; `toolkit dataset check` does that, and names everything at once.

    Raises:
        DataError: names the first file that cannot be used, and the mend.
    """
    orphans = unpaired_masks(dataset)
    if orphans:
        raise DataError(f"{orphans[0]}: mask without image; add the image or remove the mask")
    has_masks = any(sample.masks for sample in dataset)
    for sample in dataset:
        size = whole_image_size(sample.image)[:2]
        if sample.is_defect and has_masks and not sample.masks:
            raise DataError(
                f"{sample.image}: defective image without mask; add its mask or remove the image"
            )
        for mask in sample.masks:
            mask_size = image_size(mask)[:2]
            if mask_size != size:
                raise DataError(
                    f"{mask}: mask is {mask_size[0]}x{mask_size[1]} but its image "
                    f"{sample.image.name} is {size[0]}x{size[1]}; replace one of them"
                )
