"""Cross-fitting: scores of the good training images, each by a model that did not learn from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit import __version__
from toolkit.data.splits import Split, hashed_order
from toolkit.data.types import Dataset, Sample
from toolkit.decisions.card import model_sha256
from toolkit.errors import DataError, RunError
from toolkit.home import cache_dir
from toolkit.inference.pipeline import predict_samples
from toolkit.methods.registry import load_method
from toolkit.progress import naming, track
from toolkit.runs.environment import seed_everything
from toolkit.runs.run import Run
from toolkit.verification.checksums import read_sealed, write_sealed


@dataclass(frozen=True)
class CrossFit:
    """Held-out scores of the good training images of a run.

    Attributes:
        samples: the images, one of each content.
        scores: of each, by the model of its fold.
        folds: number of models that were fitted.
        dataset: the data that the images belong to.
    """

    samples: tuple[Sample, ...]
    scores: tuple[float, ...]
    folds: int
    dataset: Dataset


def cross_fit(run: Run, dataset: Dataset, *, folds: int = 5) -> CrossFit:
    """Fit a run's method once per fold without this fold's good images, and score them.

    So each good training image gives a score for a threshold, where a held-out validation part is
    a tenth of them. The models see fewer images than the run's own, so they score good images a
    little higher: a threshold from these scores errs towards escapes, but its promise is not exact
    (cross-conformal prediction; Vovk, "Cross-conformal predictors", Annals of Mathematics and
    Artificial Intelligence 74, 2015; Barber et al., "Predictive inference with the jackknife+",
    Annals of Statistics 49, 2021).

    Nothing is written into the run. The scores of a finished fold are kept in the cache folder, so
    that an interrupted or repeated call goes on from there.

    Example:
        >>> run = toolkit.Run.open("runs/patchcore/001")  # doctest: +SKIP
        >>> len(cross_fit(run, dataset).scores)  # doctest: +SKIP
        188

    Args:
        run: a finished run that reads no other run.
        dataset: the data that it was made on.
        folds: models to fit, at least 2.

    Raises:
        DataError: fewer than two folds, or fewer good training images than folds.
        RunError: the run reads other runs, which may know its images, or the data is another.
    """
    split = _split_of(run, dataset)
    by_content = {dataset.content[s.id]: s for s in split.train if not s.is_defect}
    order = hashed_order(by_content, run.seed)
    if not 2 <= folds <= len(order):
        raise DataError(
            f"cross-fit {folds}: give 2 to {len(order)}, the number of different good training "
            "images"
        )
    # One name per model, version and number of folds: other settings never meet its scores.
    kept = cache_dir() / "cross-fit" / f"{model_sha256(run)[:16]}-{__version__}-{folds}"
    scores: dict[str, float] = {}
    for fold in range(folds):
        held_out = order[fold::folds]
        file = kept / f"{fold}.json"
        if not file.is_file():
            with naming(f"{run.path.name} without part {fold + 1} of {folds}"):
                found = list(_scores(run, split, [by_content[c] for c in held_out]))
            write_sealed(file, dict(zip(held_out, found, strict=True)))
        scores.update(read_sealed(file, fix="delete it and repeat the command"))
    samples = tuple(by_content[content] for content in order)
    return CrossFit(samples, tuple(scores[c] for c in order), folds, dataset)


def _split_of(run: Run, dataset: Dataset) -> Split:
    """Return the split that a run was trained with."""
    stored, settings = run.record["split"], run.record["settings"]
    if run.record["inputs"] or settings.get("base_run"):
        raise RunError(
            f"{run.path}: reads another run, which may have learned from the same images; "
            "calibrate with good images that were held back (--good FOLDER)"
        )
    if run.record["data"]["fingerprint"] != dataset.fingerprint:
        raise RunError(
            f"{run.path}: {dataset.root} is not the data of this run; give the right one"
        )
    train, val = (tuple(dataset.by_id[name] for name in stored[part]) for part in ("train", "val"))
    return Split(
        dataset=dataset,
        plan_hash=stored["hash"],
        protocol=stored["protocol"],
        fold=stored["fold"],
        train=train,
        val=val,
        test=(),
    )


def _scores(run: Run, split: Split, held_out: list[Sample]) -> Iterator[float]:
    """Fit without some images in a temporary run, and yield their scores."""
    contents = {split.dataset.content[s.id] for s in held_out}
    rest = tuple(s for s in split.train if split.dataset.content[s.id] not in contents)
    record = run.record
    with tempfile.TemporaryDirectory(prefix="toolkit-cross-fit-") as folder:
        fitted = Run.create(
            Path(folder),
            method=run.method,
            settings=record["settings"],
            split={**record["split"], "train": [s.id for s in rest], "test": []},
            data=record["data"],
            seed=run.seed,
            device=run.device,
        )
        seed_everything(run.seed)
        method = load_method(fitted)
        method.fit(replace(split, train=rest), fitted)
        predictions = predict_samples(method.load(fitted), held_out)
        for prediction in track(predictions, "held-out scores", len(held_out)):
            yield float(prediction.score)
