"""Predict a source of any length into a folder: decoding, network and writing overlap."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import DataError
from toolkit.inference.model import Model, load_model
from toolkit.inference.sinks import (
    PARQUET,
    PREDICTIONS,
    Pictures,
    ResultWriter,
    write_parquet,
)
from toolkit.inference.sources import SourceImage, image_files, iterate_source
from toolkit.inference.throughput import in_order, stopping
from toolkit.progress import progress
from toolkit.runtime.engines import default_threads


@dataclass(frozen=True)
class _Job:
    image: SourceImage
    name: str  # of the files that are written


@dataclass(frozen=True)
class _Done:
    record: dict[str, Any] | None  # None: the image could not be read
    summary: str = ""
    error: DataError | None = None


def predict_to_folder(
    run: Path,
    sources: Sequence[Any],
    out: Path,
    *,
    calibration: Path | None = None,
    engine: str | None = None,
    pictures: Pictures = "all",
    parquet: bool = False,
    resume: bool = False,
    on_error: Callable[[DataError], None],
    on_line: Callable[[str], None] | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Predict all images of the sources and write the results, in the order of the sources.

    Args:
        run: a finished run, or an exported model.
        sources: see `iterate_source`.
        out: the folder; see `ResultWriter`.
        calibration: a calibration card of the run.
        engine: what the network runs in.
        pictures: which results are plotted.
        parquet: write `predictions.parquet` at the end, too.
        resume: keep what is in `out`.
        on_error: called with the error of each image that cannot be read.
        on_line: called with a line per result; None displays progress instead.
        say: called with the last line, which names engine, threshold and files.

    Returns:
        The number of the signal that has stopped it; 0 if it came to the end.

    Raises:
        ToolkitError: the model or a source cannot be used, or a result cannot be written.
    """
    # One more than what computes: a thread that reads or writes leaves the processor to others.
    threads = default_threads()
    model = load_model(run, calibration=calibration, engine=engine, streams=threads)
    about = {"model": str(model.place.resolve()), "threshold": model.threshold}
    with (
        stopping() as stop,
        ResultWriter(
            out, classes=model.classes, pictures=pictures, resume=resume, model=about
        ) as writer,
        progress(f"predict {out}", show=on_line is None) as bar,
    ):
        pace = _Pace(sources, writer.kept)
        jobs = _jobs(sources, writer, on_error)
        done = in_order(
            _worker(model, writer), _batches(jobs, model.batch_size), workers=threads + 1, stop=stop
        )
        for one in (one for batch in done for one in batch):
            if one.error is not None:
                on_error(one.error)
            if one.record is not None:
                writer.add_line(one.record)
            if on_line is not None and one.summary:
                on_line(one.summary)
            bar.advance(1, **pace.figures())
    if parquet:
        write_parquet(out)
    files = f"{PREDICTIONS} and {PARQUET}" if parquet else PREDICTIONS
    say(f"engine {model.engine}; threshold {model.threshold}; {files} and plots are in {out}"
        if pictures != "none"
        else f"engine {model.engine}; threshold {model.threshold}; results are in {out / files}"
    )  # fmt: skip
    return stop.signal


def _jobs(
    sources: Sequence[Any], writer: ResultWriter, on_error: Callable[[DataError], None]
) -> Iterator[_Job]:
    for image in iterate_source(sources, on_error=on_error):
        name = writer.free_name(image.name)  # also of finished ones, which keeps numbers the same
        if not writer.is_done(str(image.path or image.name)):
            yield _Job(image, name)


def _batches(jobs: Iterator[_Job], size: int) -> Iterator[list[_Job]]:
    batch: list[_Job] = []
    for job in jobs:
        batch.append(job)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def _worker(model: Model, writer: ResultWriter) -> Callable[[list[_Job]], list[_Done]]:
    lock = nullcontext() if model.parallel else threading.Lock()

    def work(batch: list[_Job]) -> list[_Done]:
        decoded, done = [], []
        for job in batch:
            try:
                decoded.append((job, job.image.read()))
            except DataError as error:
                done.append(_Done(None, error=error))
        if decoded:
            with lock:
                results = model.results([(job.image, pixels) for job, pixels in decoded])
            for (job, _), result in zip(decoded, results, strict=True):
                done.append(_Done(writer.add_files(result, job.name), result.summary()))
        return done

    return work


class _Pace:
    """Images per second, and the time left once another thread has counted the images."""

    def __init__(self, sources: Sequence[Any], kept: int) -> None:
        self._started, self._done, self._kept = time.monotonic(), 0, kept
        self._total: int | None = None
        if all(isinstance(one, str | Path) and Path(one).is_dir() for one in sources):
            folders = [Path(one) for one in sources]
            threading.Thread(target=self._count, args=(folders,), daemon=True).start()

    def _count(self, folders: Sequence[Path]) -> None:
        try:
            self._total = sum(1 for folder in folders for _ in image_files(folder))
        except DataError:
            return  # the prediction says so

    def figures(self) -> dict[str, float | str]:
        """Count one more image and return what is displayed."""
        self._done += 1
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        found: dict[str, float | str] = {"images/s": rate}
        if self._total is not None:
            left = max(self._total - self._kept - self._done, 0)
            found |= {"of": str(self._total - self._kept)}
            found |= {"left": str(datetime.timedelta(seconds=round(left / rate)))}
        return found
