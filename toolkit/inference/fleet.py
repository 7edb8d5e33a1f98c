"""Predict a manifest by the workers of a Ray cluster, each of which holds the model once.

Blocks of a manifest go to workers that are free; the results of a block are one file, which
appears whole. So a file that is there is an answered block: after any loss, also of this process,
the same command answers what is missing, and nothing twice.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolkit import __version__
from toolkit.cluster import check_same_version, ray_cluster
from toolkit.decisions.card import model_sha256
from toolkit.errors import ConfigError, RunError, ToolkitError
from toolkit.files import read_json, write_json
from toolkit.inference.answers import answer_block
from toolkit.inference.manifest import Block, Manifest, read_manifest
from toolkit.inference.model import Model, load_model
from toolkit.inference.sinks import Pictures
from toolkit.progress import progress
from toolkit.runs.run import Run
from toolkit.runtime.exported import MANIFEST as EXPORTED

BLOCK_ROWS = 1_000
RECORD = "results.json"
_AHEAD = 2  # blocks that a worker has, so that it never waits for this process
_MOST_LOSSES = 3  # workers that may be lost with the same block
_POLL_SECONDS = 1.0


@dataclass
class Answered:
    """What `predict_manifest` has done.

    Attributes:
        out: folder of the results.
        rows: answered by this call.
        kept: rows that were answered before.
        unreadable: rows of this call that hold an error.
        failed: one line per block without results.
    """

    out: Path
    rows: int = 0
    kept: int = 0
    unreadable: int = 0
    failed: list[str] = field(default_factory=list)


def predict_manifest(
    run: Path,
    source: Path,
    *,
    out: Path | None = None,
    calibration: Path | None = None,
    engine: str | None = None,
    pictures: Pictures = "none",
    address: str | None = None,
    workers: int = 0,
    block_rows: int = BLOCK_ROWS,
    say: Callable[[str], None] = lambda _: None,
) -> Answered:
    """Answer what is not answered yet of a manifest.

    Args:
        run: a finished run or an exported model, under a path that all nodes have.
        source: the manifest, see `read_manifest`.
        out: folder of the results; `<manifest>/results-<model>` if None.
        calibration: a calibration card of the run.
        engine: what the network runs in, see `load_model`.
        pictures: which results are plotted.
        address: of the cluster, see `ray_cluster`.
        workers: number of workers; 0 for one per CPU of the cluster.
        block_rows: images of a block; an answered part keeps its own.
        say: receives a line per event.

    Raises:
        ConfigError: the folder holds results of another model or manifest.
        ToolkitError: manifest, model or cluster cannot be used.
    """
    manifest = read_manifest(source)
    model_hash = hash_of(run)
    beside = source if source.is_dir() else source.with_suffix("")
    target = (out or beside / f"results-{model_hash[:12]}").resolve()
    rows = _claim(target, manifest, model_hash, block_rows, source)
    answered = Answered(target)
    done = {path.stem for path in target.glob("[!.]*.parquet")}
    job = _Job(
        __version__, str(run.resolve()), str(calibration.resolve()) if calibration else None,
        engine, str(target), model_hash, pictures,
    )  # fmt: skip
    with ray_cluster(address, say=say) as ray, progress("predict", manifest.rows) as bar:

        def open_blocks() -> Iterator[Block]:
            for block in _resolved(manifest).blocks(rows):
                if block.name in done:
                    answered.kept += block.stop - block.start
                    bar.skip(block.stop - block.start)
                else:
                    yield block

        fleet = _Fleet(ray, job, workers or _cpus(ray), say)
        try:
            for block, result in fleet.answers(open_blocks()):
                if isinstance(result, str):
                    answered.failed.append(result)
                    say(f"no results: {result}")
                    continue
                answered.rows += result[0]
                answered.unreadable += result[1]
                bar.advance(block.stop - block.start, unreadable=float(answered.unreadable))
        finally:
            fleet.close()
    return answered


def hash_of(run: Path) -> str:
    """Return a SHA-256 of a run's or an exported model's content."""
    if (run / EXPORTED).is_file():
        from toolkit.data.types import file_sha256

        return file_sha256(run / EXPORTED)
    return model_sha256(Run.open(run))


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know."""

    version: str
    run: str
    calibration: str | None
    engine: str | None
    out: str
    model_hash: str
    pictures: Pictures


class Worker:
    """Holds the model in a process of a node."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._model: Model | None = None

    def load(self) -> str | None:
        """Load the model; return why it cannot be loaded, or None."""
        import ray

        job = self._job
        where = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
        refused = check_same_version(job.version, where=where)
        if refused is not None:
            return refused
        try:
            if hash_of(Path(job.run)) != job.model_hash:
                return f"node {where}: {job.run}: another model there; copy the run again"
            self._model = load_model(job.run, calibration=job.calibration, engine=job.engine)
        except ToolkitError as error:
            return f"node {where}: {error}"
        return None

    def process(self) -> int:
        """Return the number of the process."""
        return os.getpid()

    def answer(self, block: Block) -> tuple[int, int] | str:
        """Answer a block; return rows and errors, or why it cannot be answered."""
        job = self._job
        assert self._model is not None
        try:
            return answer_block(
                self._model, block, Path(job.out), model_hash=job.model_hash, pictures=job.pictures
            )
        except ToolkitError as error:
            return str(error)


class _Fleet:
    """The workers, and what each has to do; a worker that is lost is replaced."""

    def __init__(self, ray: Any, job: _Job, size: int, say: Callable[[str], None]) -> None:
        self._ray, self._job, self._say = ray, job, say
        self._class = ray.remote(num_cpus=1, max_restarts=0)(Worker)
        self._loading: dict[Any, Any] = {}  # a worker by the reference of its loading
        self._running: dict[Any, tuple[Any, Block]] = {}
        self._load: Counter[Any] = Counter()  # blocks of each worker that is ready
        self._again: deque[Block] = deque()
        self._losses: Counter[str] = Counter()
        for _ in range(max(size, 1)):
            self._hire()

    def answers(self, blocks: Iterator[Block]) -> Iterator[tuple[Block, tuple[int, int] | str]]:
        """Yield the result of each block as it ends.

        Raises:
            RunError: the model cannot be loaded on a node.
        """
        ray = self._ray
        following = self._next(blocks)
        while following is not None or self._running:
            while following is not None and (worker := self._free()) is not None:
                self._running[worker.answer.remote(following)] = (worker, following)
                self._load[worker] += 1
                following = self._next(blocks)
            watched = [*self._running, *self._loading]
            done, _ = ray.wait(watched, num_returns=1, timeout=_POLL_SECONDS)
            for ref in done:
                if ref in self._loading:
                    self._begin(ref)
                    continue
                if ref not in self._running:  # of a worker that was lost with another block
                    continue
                worker, block = self._running[ref]
                try:
                    result = ray.get(ref)
                except ray.exceptions.RayActorError as error:
                    yield from self._lose(worker, error)
                else:
                    del self._running[ref]
                    self._load[worker] -= 1
                    yield block, result
            if following is None:
                following = self._next(blocks)

    def close(self) -> None:
        """End all workers."""
        for worker in [*self._load, *self._loading.values()]:
            with suppress(Exception):
                self._ray.kill(worker)

    def _hire(self) -> None:
        worker = self._class.remote(self._job)
        self._loading[worker.load.remote()] = worker

    def _begin(self, ref: Any) -> None:
        worker = self._loading.pop(ref)
        try:
            refused = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            self._losses[""] += 1
            if self._losses[""] > 10 * _MOST_LOSSES:
                raise RunError(f"workers end while they load the model ({error})") from error
            self._say("a worker was lost while it loaded the model; another one begins")
            self._hire()
            return
        if refused is not None:
            raise RunError(refused)
        self._load[worker] = 0

    def _free(self) -> Any:
        worker = min(self._load, key=self._load.__getitem__, default=None)
        return worker if worker is not None and self._load[worker] < _AHEAD else None

    def _lose(self, worker: Any, error: Exception) -> Iterator[tuple[Block, str]]:
        """Give the blocks of a lost worker to others."""
        lost = [ref for ref, (one, _) in self._running.items() if one is worker]
        del self._load[worker]
        self._say(f"a worker was lost with {len(lost)} blocks; another one begins")
        for place, ref in enumerate(lost):
            block = self._running.pop(ref)[1]
            if place == 0:  # the one that it worked on
                self._losses[block.name] += 1
            if self._losses[block.name] >= _MOST_LOSSES:
                reason = type(error).__name__
                yield block, f"{block.name}: {_MOST_LOSSES} workers were lost with it ({reason})"
            else:
                self._again.append(block)
        self._hire()

    def _next(self, blocks: Iterator[Block]) -> Block | None:
        return self._again.popleft() if self._again else next(blocks, None)


def _claim(out: Path, manifest: Manifest, model_hash: str, rows: int, source: Path) -> int:
    """Note what the results are of; return the rows of a block, which an answered part decides."""
    record = {"model": model_hash, "manifest": manifest.sha256, "block_rows": rows}
    path = out / RECORD
    if not path.is_file():
        write_json(path, record)
        return rows
    stored = read_json(path)
    for key, what in (("model", "model"), ("manifest", "manifest")):
        if stored.get(key) != record[key]:
            raise ConfigError(
                f"{path}: results of another {what} than {source}; choose another --out"
            )
    return int(stored["block_rows"])


def _resolved(manifest: Manifest) -> Manifest:
    """Return a manifest with absolute paths, since workers have working folders of their own."""
    shards = tuple(replace(shard, path=shard.path.resolve()) for shard in manifest.shards)
    return replace(manifest, shards=shards)


def _cpus(ray: Any) -> int:
    return int(sum(n["Resources"].get("CPU", 0) for n in ray.nodes() if n["Alive"])) or 1
