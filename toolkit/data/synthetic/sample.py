"""The synthetic sample on disk: a small data set in MVTec layout, made in a few seconds."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from toolkit.data.synthetic.camera import photograph
from toolkit.data.synthetic.defects import DEFECT_TYPES
from toolkit.errors import ConfigError, DataError
from toolkit.home import datasets_dir

_SETTINGS_FILE = "sample.json"
_VERSION = 1  # raise it whenever the same settings would give other pixels
_MIN_SIZE = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Settings:
    seed: int
    size: int
    train_good: int
    test_good: int
    per_defect: int
    version: int = _VERSION


def make_sample(
    out: Path,
    *,
    seed: int = 0,
    size: int = 256,
    train_good: int = 40,
    test_good: int = 12,
    per_defect: int = 10,
    progress: Progress | None = None,
) -> Path:
    """Render the synthetic bottle data set into `out`, in MVTec layout.

    Image i of a folder depends on the seed, the folder and i only: a larger sample begins with
    the images of a smaller one. The same settings give the same bytes on the same machine. The
    folder appears whole or not at all; one that already holds these settings is left as it is.

    Args:
        out: folder to make: `train/good`, `test/<good or type>`, `ground_truth/<type>`.
        seed: decides every pixel.
        size: side of the square images in pixels, at least 64.
        train_good: number of images in `train/good`.
        test_good: number of images in `test/good`.
        per_defect: number of images of each of the three defect types.
        progress: called with (images done, images in all).

    Returns:
        `out`.

    Raises:
        ConfigError: a number is out of range.
        DataError: `out` holds something else, or cannot be written.
    """
    settings = _Settings(seed, size, train_good, test_good, per_defect)
    _check(settings)
    if _holds(out, settings):
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            _write(temporary, settings, progress)
            temporary.chmod(0o755)  # mkdtemp makes it private
            _publish(temporary, out, settings)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{out}: cannot write the sample ({error.strerror or error}); choose another folder"
        ) from error
    return out


def default_sample(*, progress: Progress | None = None) -> Path:
    """Return the sample that stands in where no data is named; make it on first use."""
    return make_sample(datasets_dir() / "sample", progress=progress)


def _check(settings: _Settings) -> None:
    if settings.size < _MIN_SIZE:
        raise ConfigError(f"size {settings.size}: a sample image needs at least {_MIN_SIZE} pixels")
    for name, value in asdict(settings).items():
        if value < 0:
            raise ConfigError(f"{name} {value}: must not be negative")


def _holds(out: Path, settings: _Settings) -> bool:
    """Tell whether `out` already is this sample; an empty or missing folder is not."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / _SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{out}: exists and is no synthetic sample; choose another folder"
        ) from None
    wanted = asdict(settings)
    if found == wanted:
        return True
    other = (
        ", ".join(
            f"{key} {found.get(key)}, not {wanted[key]}"
            for key in wanted
            if found.get(key) != wanted[key]
        )
        if isinstance(found, dict)
        else "unreadable settings"
    )
    raise DataError(
        f"{out}: holds a sample of other settings ({other}); remove it or choose another folder"
    )


def _jobs(settings: _Settings) -> Iterator[tuple[str, str, int, int]]:
    """Yield (split, label, folder number, image number)."""
    folders = [("train", "good", settings.train_good), ("test", "good", settings.test_good)]
    folders += [("test", defect_type, settings.per_defect) for defect_type in DEFECT_TYPES]
    for number, (split, label, count) in enumerate(folders):
        for index in range(count):
            yield split, label, number, index


def _write(folder: Path, settings: _Settings, progress: Progress | None) -> None:
    jobs = list(_jobs(settings))
    for done, (split, label, number, index) in enumerate(jobs, start=1):
        rng = np.random.default_rng([settings.seed, number, index])
        defect_type = None if label == "good" else label
        shot = photograph(rng, size=settings.size, defect_type=defect_type)
        _save(folder / split / label / f"{index:03d}.png", shot.image)
        if defect_type is not None:
            _save(folder / "ground_truth" / label / f"{index:03d}_mask.png", shot.mask)
        if progress is not None:
            progress(done, len(jobs))
    text = json.dumps(asdict(settings), indent=2)
    (folder / _SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")


def _save(path: Path, pixels: np.typing.NDArray[np.uint8]) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    # Encode, then write: imwrite reports a full disk as a bare False.
    _, png = cv2.imencode(".png", pixels)
    path.write_bytes(png.tobytes())


def _publish(temporary: Path, out: Path, settings: _Settings) -> None:
    """Rename the finished folder to `out`; another process may have been faster."""
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    try:
        temporary.rename(out)
    except OSError:
        if not _holds(out, settings):
            raise
