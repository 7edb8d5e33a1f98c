"""Predict with a loaded scorer: from an image to cell scores, a smoothed map and an image score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.methods.base import Graph, Predictor, to_prediction
from toolkit.methods.features.extractor import FeatureExtractor
from toolkit.methods.features.head import Head, scores_of
from toolkit.methods.features.settings import FeatureSettings
from toolkit.prediction import Prediction
from toolkit.runtime.steps import MapSteps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ScorerPredictor(Predictor):
    """A loaded scorer: extractor, head, and from cell scores to a smoothed map."""

    def __init__(self, extractor: FeatureExtractor, head: Head, settings: FeatureSettings) -> None:
        self.extractor, self.head, self.settings = extractor, head, settings
        self._steps = MapSteps(self.steps())

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return one prediction with an anomaly map per image; see `Predictor.predict`."""
        return [self._predict_one(image) for image in images]

    def _predict_one(self, image: NDArray[np.uint8]) -> Prediction:
        import torch

        with torch.inference_mode():
            maps = self.extractor.layer_maps(image)
            scores, score = scores_of(self.head, self.extractor, maps)
            cells = scores.view(self.extractor.grid_hw).cpu().numpy()
        answer = self._steps.answer(cells, None if score is None else float(score.item()))
        return to_prediction(answer)

    def steps(self) -> dict[str, Any]:
        """Return what lies around the network; see `Predictor.steps`."""
        settings = self.settings
        return {
            "kind": "anomaly-map",
            "input_hw": list(self.extractor.input_hw),
            "smoothing_sigma": settings.sigma,
            "image_score": settings.image_score,
        }

    def graph(self) -> Graph | None:
        """Return extractor and head as one network, from the resized image to cells and score.

        None where the head searches outside of torch.
        """
        if not getattr(self.head, "in_torch", True):
            return None
        import numpy as np
        import torch

        from toolkit.methods.features.graph import CellScores

        example = np.zeros((1, *self.extractor.input_hw, 3), np.uint8)
        module = CellScores(self).eval()
        with torch.inference_mode():
            outputs = ("cells", "score")[: len(module(torch.from_numpy(example)))]
        return Graph(module, {"image": example}, outputs)
