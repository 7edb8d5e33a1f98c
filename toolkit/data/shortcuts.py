"""Shortcuts: trivial features of images (light, sharpness, file size) that give the label away.

A supervised method may learn such a feature in place of the defect, and a good-only method takes a
change of light between `train/good` and `test/good` for one. The features are measured outside of
the defects: from each good image the region of some defect is left out as well. Where nobody knows
where the defects are, good and defect are compared by the border and the file alone.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.images import read_rgb, read_truth
from toolkit.data.splits import hashed_order
from toolkit.data.types import Dataset, Sample
from toolkit.errors import DataError, ToolkitError
from toolkit.files import OutputError
from toolkit.home import cache_dir
from toolkit.progress import track
from toolkit.verification.checksums import read_sealed, write_sealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VERSION = 3
MIN_IMAGES = 10
"""Images that each side of a comparison needs."""
_MOST_IMAGES = 120  # of each side
_LOWEST = 0.7
_BORDER = 1 / 16  # of the shorter side
_MARGIN = 1 / 64  # around a defect, of the shorter side
_RESAMPLES = 500
_MOST_NAMED = 3
_ALL = "all of them in a small model"

FEATURES = (
    "brightness of the border", "spread of brightness of the border",
    "red of the border", "blue of the border",
    "brightness", "spread of brightness", "red", "blue",
    "sharpness", "noise", "width", "height", "channels", "file format",
    "file size for its pixels",
)  # fmt: skip
"""Colours are differences from the mean of the three channels; sharpness and noise are logarithms
of the variance of the Laplacian and of the noise's standard deviation (Immerkaer 1996); the last
one is the logarithm of the file's size over that of the same pixels in one fixed encoding.

Values are rounded, to one grey level or 5 %: what is below would tell groups apart as well, and no
method can rest on it."""
_INSIDE = frozenset(
    ("brightness", "spread of brightness", "red", "blue", "sharpness", "noise")
)  # of the whole image
_STEPS = (1.0,) * 8 + (0.05, 0.05, 1.0, 1.0, 1.0, 1.0, 0.05)
_FORMATS = (".png", ".jpg", ".bmp", ".tif", ".webp")


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A trivial feature that tells two groups of images apart.

    Attributes:
        first, second: the groups, such as `test/good` and `defects`.
        feature: one of `FEATURES`, or a small model on all of them.
        auroc: cross-validated: 0.5 is chance.
        low, high: 99 % bootstrap interval of it.
        first_text, second_text: mean and standard deviation of the feature in the groups.
    """

    first: str
    second: str
    feature: str
    auroc: float
    low: float
    high: float
    first_text: str = ""
    second_text: str = ""

    def __str__(self) -> str:
        values = f", {self.first_text} against {self.second_text}" if self.first_text else ""
        return (
            f"{self.first} and {self.second} differ in {self.feature} (AUROC {self.auroc:.2f} "
            f"[{self.low:.2f}, {self.high:.2f}]{values})"
        )


def find_shortcuts(dataset: Dataset, *, show_progress: bool = False) -> tuple[Shortcut, ...]:
    """Find trivial features that tell good images from defects, or `train/good` from `test/good`.

    Each feature, and logistic regression on all of them, is cross-validated in five folds. One is
    reported where the interval of its AUROC lies above 0.7. Results are kept in the cache.

    Example:
        >>> [str(one) for one in find_shortcuts(load_dataset("mvtec/screw"))]  # doctest: +SKIP
        ['test/good and defects differ in brightness of the border …']

    Args:
        dataset: the data set; parts with fewer than 10 images of a group are not compared.
        show_progress: whether to show progress on standard error.

    Raises:
        DataError: an image cannot be read.
    """
    groups = _groups(dataset)
    if not groups:
        return ()
    file = cache_dir() / "shortcuts" / f"v{_VERSION}-{dataset.fingerprint}.json"
    known = _recall(file)
    if known is not None:
        return known
    wanted = {s.id: s for _, first, _, second in groups for s in (*first, *second)}
    values = _measure(list(wanted.values()), dataset, show_progress=show_progress)
    found: list[Shortcut] = []
    for first_name, first, second_name, second in groups:
        x = np.array([values[s.id] for s in (*first, *second)])
        y = np.repeat([0, 1], [len(first), len(second)])
        is_located = all(s.has_boxes for s in second if s.is_defect)
        columns = [i for i, name in enumerate(FEATURES) if is_located or name not in _INSIDE]
        found += _compare(x, y, columns, first_name, second_name)
    with contextlib.suppress(OutputError):  # a read-only cache costs the next call its time
        write_sealed(file, {"shortcuts": [asdict(one) for one in found]})
    return tuple(found)


def warnings_of(dataset: Dataset) -> tuple[str, ...]:
    """Return what a leaderboard says of a data set: its strongest shortcut of each comparison."""
    try:
        found = find_shortcuts(dataset, show_progress=True)
    except ToolkitError:
        return ()  # the method's own reading names the file
    best: dict[tuple[str, str], Shortcut] = {}
    for one in found:
        best.setdefault((one.first, one.second), one)
    return tuple(map(str, best.values()))


def _groups(dataset: Dataset) -> list[tuple[str, list[Sample], str, list[Sample]]]:
    def chosen(part: str, *, is_defect: bool) -> list[Sample]:
        some = {s.id: s for s in dataset if s.part == part and s.is_defect == is_defect}
        return [some[key] for key in hashed_order(some, "shortcuts")[:_MOST_IMAGES]]

    has_parts = len({s.part for s in dataset}) > 1
    train, test = chosen("train", is_defect=False), chosen("test", is_defect=False)
    prefix = {part: f"{part}/" if has_parts else "" for part in ("train", "test")}
    pairs = [
        (f"{prefix['test']}good", test, "defects", chosen("test", is_defect=True)),
        ("train/good", train, "defects of train/", chosen("train", is_defect=True)),
        ("train/good", train, "test/good", test),
    ]
    return [pair for pair in pairs if min(len(pair[1]), len(pair[3])) >= MIN_IMAGES]


def _recall(file: Any) -> tuple[Shortcut, ...] | None:
    if not file.is_file():
        return None
    try:
        return tuple(Shortcut(**one) for one in read_sealed(file, fix="")["shortcuts"])
    except (ToolkitError, KeyError, TypeError):
        return None


def _measure(
    samples: Sequence[Sample], dataset: Dataset, *, show_progress: bool
) -> dict[str, list[float]]:
    """Measure the features of each image, by sample id."""
    defects = [s for s in dataset if s.is_defect and s.has_boxes]
    values = {}
    for sample in track(samples, "shortcuts", len(samples), show=show_progress):
        image = read_rgb(sample.image)
        other = sample
        if defects and not sample.is_defect:  # the same share of good images is left out
            digest = hashlib.sha256(sample.id.encode()).digest()
            other = defects[int.from_bytes(digest[:4], "big") % len(defects)]
        values[sample.id] = measure(image, _left_out(other, image.shape[:2]), sample)
    return values


def _left_out(sample: Sample, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the pixels of a sample's defects and around them, in another image's size."""
    import cv2

    if not sample.has_boxes:
        return np.zeros(shape[:2], np.bool_)
    truth = cv2.resize(
        read_truth(sample).view(np.uint8), shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    reach = 2 * max(1, round(min(shape[:2]) * _MARGIN)) + 1
    return np.asarray(cv2.dilate(truth, np.ones((reach, reach), np.uint8)) > 0, np.bool_)


def measure(image: NDArray[np.uint8], left_out: NDArray[np.bool_], sample: Sample) -> list[float]:
    """Return the values of `FEATURES`.

    Args:
        image: RGB (H, W, 3).
        left_out: pixels (H, W) that do not count; all count where all would be left out.
        sample: its file is looked at.
    """
    import cv2

    height, width = image.shape[:2]
    kept = ~left_out if not left_out.all() else np.ones_like(left_out)
    edge = max(1, round(min(height, width) * _BORDER))
    border = kept.copy()
    border[edge:-edge, edge:-edge] = False
    if not border.any():
        border = kept
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(grey, cv2.CV_32F)[kept]
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    noise = np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel)[kept]).mean() * np.sqrt(np.pi / 2) / 6
    size = sample.image.stat().st_size
    suffix = sample.image.suffix.lower().replace(".jpeg", ".jpg").replace(".tiff", ".tif")
    values = [
        *_light(image, grey, border),
        *_light(image, grey, kept),
        float(np.log1p(laplacian.var())),
        float(np.log1p(noise)),
        float(width),
        float(height),
        1.0 if np.array_equal(image[..., 0], image[..., 2]) else 3.0,
        float(_FORMATS.index(suffix) if suffix in _FORMATS else -1),
        float(np.log(size / _encoded_size(image, suffix))),
    ]
    return [round(v / step) * step for v, step in zip(values, _STEPS, strict=True)]


def _encoded_size(image: NDArray[np.uint8], suffix: str) -> int:
    """Return the bytes that the pixels take in a fixed encoding, of the file's kind."""
    import cv2

    lossy = suffix in (".jpg", ".webp")
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if lossy else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    return len(cv2.imencode(".jpg" if lossy else ".png", image, options)[1])


def _light(
    image: NDArray[np.uint8], grey: NDArray[np.uint8], where: NDArray[np.bool_]
) -> Iterator[float]:
    import cv2

    mask = where.view(np.uint8)
    mean, spread = cv2.meanStdDev(grey, mask=mask)
    red, green, blue, _ = cv2.mean(image, mask=mask)
    middle = (red + green + blue) / 3
    yield from (float(mean[0, 0]), float(spread[0, 0]), red - middle, blue - middle)


def _compare(
    x: NDArray[np.float64], y: NDArray[np.int64], allowed: Sequence[int], first: str, second: str
) -> list[Shortcut]:
    """Return the features that tell the groups apart, the best first, and the model on all."""
    varied = [i for i in allowed if np.ptp(x[:, i]) > 0]
    found = []
    for columns in [*([i] for i in varied), *([varied] if len(varied) > 1 else [])]:
        scores = cross_validated(x[:, columns], y)
        auroc, low, high = auroc_interval(scores, y, level=0.99)
        if low <= _LOWEST:
            continue
        one = Shortcut(first, second, _ALL, auroc, low, high)
        if len(columns) == 1:
            texts = [_text(x[y == side, columns[0]]) for side in (0, 1)]
            one = Shortcut(first, second, FEATURES[columns[0]], auroc, low, high, *texts)
        found.append(one)
    single = sorted((s for s in found if s.feature != _ALL), key=lambda s: (-s.low, -s.auroc))
    return [*single[:_MOST_NAMED], *(s for s in found if s.feature == _ALL)]


def _text(values: NDArray[np.float64]) -> str:
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    digits = 0 if abs(mean) >= 100 else 2
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def cross_validated(x: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return scores of images that the model was not fitted on.

    Logistic regression on standardised values and their squares, so that a group that lies between
    the values of the other is told apart, too.

    Args:
        x: features (n, k).
        y: 0 or 1 (n,), at least 5 of each.

    Raises:
        DataError: there are fewer.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    folds = 5
    if np.bincount(y, minlength=2).min() < folds:
        raise DataError(f"{folds} images of each group are needed; add images")
    model = make_pipeline(
        StandardScaler(),
        FunctionTransformer(_with_squares),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    scores: NDArray[np.float64] = cross_val_predict(
        model, x, y, cv=split, method="decision_function"
    )
    return scores


def _with_squares(x: NDArray[np.float64]) -> NDArray[np.float64]:
    cut = np.clip(x, -5, 5)
    return np.hstack([cut, cut**2])


def auroc_interval(
    scores: NDArray[np.float64], y: NDArray[np.int64], *, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the AUROC and its interval by the stratified bootstrap.

    Example:
        >>> auroc_interval(np.arange(8.0), np.repeat([0, 1], 4))
        (1.0, 1.0, 1.0)
    """
    below, above = scores[y == 0], scores[y == 1]
    won = (above > below[:, None]) + 0.5 * (above == below[:, None])  # pair by pair
    rng = np.random.default_rng(0)
    counts = [
        rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=_RESAMPLES)
        for group in (below, above)
    ]
    drawn = ((counts[0] @ won) * counts[1]).sum(axis=1) / won.size
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(won.mean()), float(low), float(high)
