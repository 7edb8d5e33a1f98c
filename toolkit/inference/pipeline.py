"""Predict the samples of a data set, timed from the file on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from toolkit.data.images import read_rgb
from toolkit.data.types import Sample
from toolkit.methods.base import Predictor
from toolkit.prediction import Prediction


def predict_samples(predictor: Predictor, samples: Sequence[Sample]) -> Iterator[Prediction]:
    """Yield one prediction per sample, in order, one image at a time.

    Each has its sample's id, and the seconds from the image file to the prediction; where a method
    read from a cache what it would compute, the seconds of that are added.

    Raises:
        DataError: an image cannot be read.
    """
    for sample in samples:
        started = time.perf_counter()
        (prediction,) = predictor.predict([read_rgb(sample.image)])
        seconds = time.perf_counter() - started + (prediction.seconds or 0.0)
        yield replace(prediction, sample_id=sample.id, seconds=seconds)
