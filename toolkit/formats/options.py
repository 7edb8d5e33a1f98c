"""Conversion options, and which class a defect type or a value in a mask becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import ConfigError, did_you_mean
from toolkit.formats.report import Problem

Images = Literal["link", "hardlink", "copy"]
Backgrounds = int | float | Literal["all"]

SINGLE = "defect"
"""Name of the one class of `--classes single`."""

_MAX_SIDE = 65_535
# What readers of YAML 1.1 take for something else than text.
_YAML_WORDS = frozenset({"y", "yes", "n", "no", "true", "false", "on", "off", "null", "~"})


def parse_backgrounds(text: str, *, option: str) -> Backgrounds:
    """Parse a number of good images: `all`, a count such as 20, or a share below 1 such as 0.1.

    Example:
        >>> parse_backgrounds("0.25", option="--backgrounds"), parse_backgrounds("12.0", option="")
        (0.25, 12)

    Args:
        text: what the user wrote.
        option: name of the option or setting, for the message.

    Raises:
        ConfigError: it is none of these.
    """
    if text == "all":
        return "all"
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number.is_integer() and number >= 0:
        return int(number)
    if 0 < number < 1:
        return number
    raise ConfigError(f"{option}={text}: use a count, a share of the training part below 1, or all")


@dataclass(frozen=True)
class Options:
    """Settings of a conversion, apart from source and target.

    Attributes:
        images: how an image gets into the output: symbolic link, hard link or copy.
        backgrounds: good images in the training part: how many, which share of the training part
            (a float in [0, 1)), or all.
        connectivity: 8 (diagonal neighbours touch) or 4.
        min_area: regions of fewer pixels are dropped, and counted as such.
        merge_distance: regions of one class are joined where their nearest pixels are at most this
            far apart (Euclidean, between pixel centres); 0 joins nothing.
        classes: `defect-type`, `single`, or a mapping from defect type to class name, where None
            drops the type.
        mask_values: class name of each mask value, for masks that hold class indices.
        mask_threshold: mask values above it are defect; None: that of each sample, see
            `toolkit.data.images.read_mask`.
        image_size: longest side in pixels that images and geometry are resized to.
        segmentation: how `coco` writes masks: exact run lengths or polygons.
        points: positive and as many negative point prompts per region (`sam`).
        box_jitter: standard deviation of the jittered prompt box, as a share of the side (`sam`).
        seed: of all random choices.
    """

    images: Images = "link"
    backgrounds: Backgrounds = "all"
    connectivity: int = 8
    min_area: int = 1
    merge_distance: float = 0.0
    classes: str | Mapping[str, str | None] = "defect-type"
    mask_values: Mapping[int, str] | None = None
    mask_threshold: int | None = None
    image_size: int | None = None
    segmentation: Literal["rle", "polygon"] = "rle"
    points: int = 3
    box_jitter: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: names the option and what it takes.
        """
        if self.images not in ("link", "hardlink", "copy"):
            raise ConfigError(f"--images {self.images}: use link, hardlink or copy")
        if self.connectivity not in (4, 8):
            raise ConfigError(f"--connectivity {self.connectivity}: use 4 or 8")
        if self.segmentation not in ("rle", "polygon"):
            raise ConfigError(f"--segmentation {self.segmentation}: use rle or polygon")
        for name, least in (
            ("min_area", 1),
            ("mask_threshold", 0),
            ("merge_distance", 0),
            ("image_size", 1),
            ("points", 1),
            ("box_jitter", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} {value}: must be at least {least}")
        if self.image_size is not None and self.image_size > _MAX_SIDE:
            raise ConfigError(f"--image-size {self.image_size:.3g}: must be at most {_MAX_SIDE}")
        if self.mask_threshold is not None and self.mask_values is not None:
            raise ConfigError("--mask-threshold and --mask-values exclude each other: use one")
        self._check_backgrounds()
        if isinstance(self.classes, str) and self.classes not in ("defect-type", "single"):
            raise ConfigError(
                f"--classes {self.classes}: use defect-type, single or a YAML file of type: class"
            )

    def _check_backgrounds(self) -> None:
        value = self.backgrounds
        if isinstance(value, str):
            fits = value == "all"
        elif isinstance(value, float):
            fits = 0 <= value < 1
        else:
            fits = value >= 0
        if not fits:
            raise ConfigError(
                f"--backgrounds {value}: use a count, a share of the training part below 1, or all"
            )

    def record(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        record = asdict(self)
        if self.mask_values is not None:
            record["mask_values"] = {str(k): v for k, v in self.mask_values.items()}
        return record


@dataclass(frozen=True)
class ClassMap:
    """Class names, and the index of each label.

    Attributes:
        names: class names in the order of their indices.
        index: from a label (a defect type or a name of `mask_values`) to the class index; None
            drops the label.
    """

    names: tuple[str, ...]
    index: Mapping[str, int | None]


def class_map(labels: Iterable[str], options: Options) -> ClassMap:
    """Return the classes for the given labels.

    Indices follow the order of the mapping if there is one, else the alphabet.

    Raises:
        ConfigError: a mapping names no class for a label, or a label that does not exist.
    """
    labels = sorted(set(labels if options.mask_values is None else options.mask_values.values()))
    if options.classes == "single":
        return ClassMap((SINGLE,), dict.fromkeys(labels, 0))
    if isinstance(options.classes, str):
        return ClassMap(tuple(labels), {name: i for i, name in enumerate(labels)})
    mapping = options.classes
    for label in labels:
        if label not in mapping:
            raise ConfigError(f"--classes: the mapping lacks {label!r}; add it, or map it to null")
    for label in mapping:
        if label not in labels:
            raise ConfigError(f"--classes: no defect type {label!r}{did_you_mean(label, labels)}")
    names = tuple(dict.fromkeys(name for name in mapping.values() if name is not None))
    places = {name: i for i, name in enumerate(names)}
    return ClassMap(names, {k: None if v is None else places[v] for k, v in mapping.items()})


def suspicious_names(names: Iterable[str]) -> list[Problem]:
    """Report class names that a YAML reader may take for a boolean, a number or nothing.

    This project's own files quote them; a tool that rewrites them may not.
    """
    return [
        Problem(
            "class name",
            f"class {name!r}: unquoted, YAML does not read it as text; rename it with --classes",
        )
        for name in names
        if name.strip().lower() in _YAML_WORDS or not name.strip() or _is_number(name)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_classes(text: str) -> str | dict[str, str | None]:
    """Parse `--classes`: a word, or a YAML file of `type: class`.

    Raises:
        ConfigError: the file cannot be read or is not such a mapping.
    """
    if not text.endswith((".yaml", ".yml")):
        return text
    raw = _read_yaml(Path(text), option="--classes")
    if not all(isinstance(k, str) and (v is None or isinstance(v, str)) for k, v in raw.items()):
        raise ConfigError(f"{text}: every line must be `type: class`, both text; quote them")
    return dict(raw)


def read_mask_values(text: str) -> dict[int, str]:
    """Parse `--mask-values`: `1=scratch,2=dent`, or a YAML file of `value: class`.

    Raises:
        ConfigError: a value is not a number above 0, or a name is missing.
    """
    if text.endswith((".yaml", ".yml")):
        pairs = [(str(k), v) for k, v in _read_yaml(Path(text), option="--mask-values").items()]
    else:
        pairs = [(k, v) for k, _, v in (pair.partition("=") for pair in text.split(","))]
    values: dict[int, str] = {}
    for key, name in pairs:
        if not (key.strip().isdigit() and int(key) > 0 and isinstance(name, str) and name.strip()):
            raise ConfigError(
                f"--mask-values {text}: write value=class with values above 0, such as 1=scratch"
            )
        values[int(key)] = name.strip()
    return values


def _read_yaml(path: Path, *, option: str) -> dict[Any, Any]:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{option} {path}: cannot be read ({reason})") from error
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{option} {path}: not a mapping; write one `key: class` a line")
    return raw
