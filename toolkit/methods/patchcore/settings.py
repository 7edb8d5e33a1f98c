"""Settings of PatchCore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.config import setting
from toolkit.methods.features.settings import FeatureSettings, at_least, share


@dataclass(frozen=True)
class PatchCoreSettings(FeatureSettings):
    """Settings of PatchCore; docs/scorers.md tells on which images the defaults were chosen."""

    image_size: int = setting(416, "side in pixels to which images are resized")
    contrast: float = setting(
        0.0, "factor that spreads pixels before the network sees them; 0: what suits the backbone"
    )
    whitening: float = setting(
        -1.0, "shrinkage of the whitening of each layer's features; negative: no whitening"
    )
    stride: int = setting(8, "pixels per cell of the patch grid; 0: that of the finest layer")
    coreset_size: int = setting(3000, "patches to keep at most")
    coreset_ratio: float = setting(0.1, "share of all patches to keep at most")
    coreset: Literal["grouped", "exact"] = setting(
        "grouped", "greedy choice within groups (fast), or over all patches"
    )
    projection: int = setting(64, "dimensions in which the coreset is chosen; 0: all")
    max_patches: int = setting(100_000, "patches held in memory at most; more are sampled evenly")
    dimensions: int = setting(
        48, "principal axes of the bank along which patches are compared; 0, or with whitening: all"
    )
    search: Literal["torch", "faiss"] = setting(
        "torch", "finds the nearest patches: torch, or faiss"
    )
    neighbours: int = setting(1, "nearest patches whose mean distance is a patch's score")
    reweight: int = setting(9, "neighbours that reweight the image score (paper: 9); 0: none")
    image_score: Literal["max", "top_1_percent"] = setting(
        "max", "image score: reweighted maximum, or mean of the map's top 1 %"
    )
    extend: str = setting("", "run whose bank is gone on with: only images new to it are embedded")

    def __post_init__(self) -> None:
        """Reject a memory that holds nothing, and a search for nothing.

        Raises:
            ValueError: the message names the key.
        """
        super().__post_init__()
        share(self, "coreset_ratio")
        at_least(
            self,
            coreset_size=1,
            max_patches=1,
            neighbours=1,
            projection=0,
            dimensions=0,
            reweight=0,
        )
