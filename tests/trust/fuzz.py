"""What the fuzz tests share: seeded cases, the time that one may take, and what is mutated.

Some cases of each target; `make trust` tries 20,000 of each (`TOOLKIT_FUZZ`). The cases are
numbers, from which the mutation follows, so that a failure is repeated by its number.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tiny import TinyRuns
from toolkit.data.synthetic import make_sample
from toolkit.errors import ToolkitError

CASES = int(os.environ.get("TOOLKIT_FUZZ", "60"))
SECONDS = 10
fuzz = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=CASES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
numbers = st.integers(0, 2**48)


@contextlib.contextmanager
def refused(*kinds: type[BaseException]) -> Iterator[None]:
    """Allow errors of the toolkit, and no more than some seconds.

    Seconds of the processor, so that other work on the machine does not count, and a minute of the
    clock for what only waits.
    """

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS} s of the processor, or waits")

    limits = (
        (signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
        (signal.SIGALRM, signal.ITIMER_REAL, 60),
    )
    before = {kind: signal.signal(kind, late) for kind, _, _ in limits}
    for _, timer, seconds in limits:
        signal.setitimer(timer, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ToolkitError, *kinds):
        pass
    finally:
        for kind, timer, _ in limits:
            signal.setitimer(timer, 0)
            signal.signal(kind, before[kind])


def encoded() -> dict[str, bytes]:
    """Return a small image in every kind of file that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(noise)
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "rgb.png": (picture, "PNG", {}),
        "grey.png": (picture.convert("L"), "PNG", {}),
        "palette.png": (picture.convert("P"), "PNG", {}),
        "bits.png": (picture.convert("1"), "PNG", {}),
        "rgba.png": (picture.convert("RGBA"), "PNG", {}),
        "deep.png": (Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "a.jpg": (picture, "JPEG", {}),
        "progressive.jpg": (picture, "JPEG", {"progressive": True}),
        "a.bmp": (picture, "BMP", {}),
        "a.tif": (picture, "TIFF", {}),
        "packed.tif": (picture, "TIFF", {"compression": "tiff_lzw"}),
        "a.webp": (picture, "WEBP", {}),
        "exact.webp": (picture, "WEBP", {"lossless": True}),
    }
    found = {}
    for name, (image, kind, options) in kinds.items():
        data = io.BytesIO()
        image.save(data, kind, **options)
        found[name] = data.getvalue()
    return found


PICTURES = encoded()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def data(work: Path) -> Path:
    return make_sample(work / "data", seed=2, size=64, train_good=3, test_good=4, per_defect=4)


@pytest.fixture(autouse=True)
def _counted(record_property: Callable[[str, object], None]) -> Iterator[None]:
    record_property("cases", CASES)
    with np.errstate(all="ignore"):
        yield


YAML = """\
name: small
protocol: supervised
n_folds: 3
folds: [0, 1]
seeds: [0]
columns: [auroc, image.ap]
methods:
  - config: padim/default
    name: padim
    overrides: {weights: none, image_size: 64, n_features: 8}
    published: {value: 0.75, source: paper, column: auroc}
    resources: {cpus: 1, memory: 2GB}
  - config: sam/default
    prompt_run: padim
"""


RUN_FILES = (
    "run.json",
    "metrics.json",
    "report.json",
    "predictions/test.jsonl",
    "predictions/val.jsonl",
)


@pytest.fixture(scope="module")
def whole_run(work: Path, tiny_runs: TinyRuns, sample_dir: Path) -> Path:
    """A run that tests may change; its files are put back before each case."""
    shutil.copytree(tiny_runs("padim").path, work / "runs/padim/one")
    return work / "runs/padim/one"
