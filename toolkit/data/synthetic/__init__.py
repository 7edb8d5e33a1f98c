"""A procedural, seeded stand-in for MVTec AD's `bottle`: runs everything before any download."""

from toolkit.data.synthetic.defects import DEFECT_TYPES
from toolkit.data.synthetic.sample import default_sample, make_sample

__all__ = ["DEFECT_TYPES", "default_sample", "make_sample"]
