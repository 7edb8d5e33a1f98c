"""Compare runs, converted sets, caches, splits and exports with the checksums that they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError, ToolkitError, printable
from toolkit.files import json_text
from toolkit.verification.checksums import (
    CHECKSUMS,
    SEAL,
    is_sealed,
    read_checksums,
    sha256_of,
    without_trailer,
)

_AGAIN = "remove the folder and convert again"
_EXPORT = "export again with --overwrite"
_RESUME = "remove metrics.json beside it and repeat the training with --resume"
_TRAIN = "remove the run and train again"
_ANEW = "delete it: it is made anew"
# By the first part of a file's name in a run; all others need another training.
_RUN_FIXES = {
    "metrics.json": "write it again with: toolkit evaluate {folder}",
    "speed.json": "delete it: the benchmark measures again",
    "predictions": _RESUME,
    "report.json": _RESUME,
}


@dataclass(frozen=True)
class Damage:
    """One damaged file.

    Attributes:
        path: the file.
        reason: what is wrong with it.
        fix: what a person does about it.
    """

    path: Path
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}; {printable(self.fix)}"


@dataclass
class Verified:
    """What `verify` found.

    Attributes:
        files: number of files that were compared with a checksum.
        damaged: those that differ or are missing.
        unchecked: one line for each place without checksums.
    """

    files: int = 0
    damaged: list[Damage] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def verify(places: Iterable[str | Path]) -> Verified:
    """Check every file below some places that has a checksum.

    Example:
        >>> verify(["runs/bottle"]).damaged  # doctest: +SKIP
        []

    Args:
        places: runs, folders of runs, converted sets, exports, cache folders, split files.

    Raises:
        ConfigError: there is no such place, or nothing in it is of these kinds.
    """
    found = Verified()
    for place in map(Path, places):
        before = found.files, len(found.damaged), len(found.unchecked)
        if place.is_dir():
            _verify_folder(place, found)
        elif place.is_file():
            _verify_file(place, found, named=True)
        else:
            raise ConfigError(f"{printable(place)}: no such file or folder; check the path")
        if (found.files, len(found.damaged), len(found.unchecked)) == before:
            raise ConfigError(
                f"{printable(place)}: nothing there that has checksums; name a run, a folder of "
                "runs, a converted set, an export, a cache folder or a split file"
            )
    return found


def _verify_folder(folder: Path, found: Verified) -> None:
    """Check a folder by its kind; one of no kind file by file, and its subfolders."""
    if (folder / "run.json").exists() or (folder / "metrics.json").exists():
        _verify_run(folder, found)
    elif _is_export(folder):
        _verify_export(folder, found)
    elif (folder / "engine.json").exists():
        record = _sealed_record(folder / "engine.json", found, _ANEW)
        if record is not None and "sha256" in record:  # without, it names networks elsewhere
            _compare(folder / "model.onnx", str(record.get("sha256")), found, _ANEW)
    elif (folder / CHECKSUMS).exists():
        _verify_record(folder, found, lambda name: _AGAIN)
    elif (folder / ".inputs.json").exists():
        _older(folder, found)
    else:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            found.damaged.append(Damage(folder, reason, "make it readable"))
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _verify_folder(Path(entry.path), found)
            elif entry.is_file(follow_symlinks=False):
                _verify_file(Path(entry.path), found)


def _verify_run(run: Path, found: Verified) -> None:
    if not (run / "metrics.json").exists() and not (run / CHECKSUMS).exists():
        found.unchecked.append(f"{printable(run)}: not finished, so it has no checksums yet")
        return
    recorded = _verify_record(run, found, lambda name: _run_fix(run, name))
    for name in ("calibration.json", "card.json"):
        if name not in recorded and (run / name).exists():
            _verify_file(run / name, found)


def _run_fix(run: Path, name: str) -> str:
    fix = _RUN_FIXES.get(name.partition("/")[0], _TRAIN)
    return fix.format(folder=run)


def _verify_record(folder: Path, found: Verified, fix: Any) -> dict[str, str]:
    """Check the files that `checksums.json` names; return it."""
    record = folder / CHECKSUMS
    try:
        files = read_checksums(folder)
    except ToolkitError:
        found.damaged.append(Damage(record, "damaged, so nothing beside it can be checked",
                                    f"restore it, or {fix(CHECKSUMS)}"))  # fmt: skip
        return {}
    if files is None:
        _older(folder, found)
        return {}
    found.files += 1
    for name, digest in files.items():
        _compare(folder / name, digest, found, fix(name))
    return files


def _compare(path: Path, digest: str, found: Verified, fix: str) -> None:
    found.files += 1
    try:
        same = sha256_of(path) == digest
    except OSError as error:
        reason = "missing" if not path.exists() else f"cannot be read ({error.strerror})"
        found.damaged.append(Damage(path, reason, fix))
        return
    if not same:
        linked = f" (a link to {printable(path.readlink())})" if path.is_symlink() else ""
        found.damaged.append(Damage(path, f"damaged{linked}: its checksum differs", fix))


def _is_export(folder: Path) -> bool:
    """Return whether a folder is an export; of another kind with `manifest.json` are lists."""
    if (folder / "export.json").exists() or (folder / "predict.py").exists():
        return True
    return (folder / "manifest.json").exists() and not any(folder.glob("part-*"))


def _verify_export(folder: Path, found: Verified) -> None:
    name = "export.json" if (folder / "export.json").exists() else "manifest.json"
    record = _sealed_record(folder / name, found, _EXPORT)
    if record is None:
        return
    files = record.get("sha256")
    if not isinstance(files, Mapping):
        _older(folder, found)
        return
    named = {str(key): str(value) for key, value in files.items()}
    if "predict_sha256" in record:
        named["predict.py"] = str(record["predict_sha256"])
    for file, digest in named.items():
        _compare(folder / file, digest, found, _EXPORT)
    if SEAL not in record:
        _older(folder / name, found)


def _verify_file(path: Path, found: Verified, *, named: bool = False) -> None:
    """Check a file that carries its own checksum; others count only where they are named."""
    if path.suffix == ".npy":
        _verify_array(path, found)
    elif path.suffix == ".json":
        record = _sealed_record(path, found, _json_fix(path))
        if record is not None and SEAL not in record:
            _older(path, found)
    elif named:
        raise ConfigError(
            f"{printable(path)}: no checksums are kept for such a file; name the folder it is in"
        )


def _verify_array(path: Path, found: Verified) -> None:
    try:
        content, is_whole = without_trailer(path.read_bytes())
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        found.damaged.append(Damage(path, reason, _ANEW))
        return
    if is_whole is None and _is_bare_array(content):
        _older(path, found)
        return
    found.files += 1
    if not is_whole:
        found.damaged.append(Damage(path, "damaged: its checksum differs", _ANEW))


def _is_bare_array(content: bytes) -> bool:
    """Return whether these bytes are exactly one array, as older versions stored it."""
    from io import BytesIO

    import numpy as np

    file = BytesIO(content)
    try:
        np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return False
    return file.tell() == len(content)


def _sealed_record(path: Path, found: Verified, fix: str) -> dict[str, Any] | None:
    """Read a JSON file and check its checksum, if it has one; None where it is damaged."""
    try:
        data = path.read_bytes()
        record = json.loads(data)
        is_damaged = not isinstance(record, dict) or is_sealed(record) is False
    except OSError as error:
        found.files += 1
        reason = "missing" if not path.exists() else f"cannot be read ({error.strerror})"
        found.damaged.append(Damage(path, reason, fix))
        return None
    except (ValueError, RecursionError):
        is_damaged = True
    # A flipped bit may leave the values as they are, such as 1e-05 and 1E-05.
    if not is_damaged and SEAL in record:
        is_damaged = _text(record) != data
    if is_damaged:
        found.files += 1
        found.damaged.append(Damage(path, "damaged: its checksum differs", fix))
        return None
    found.files += SEAL in record
    return dict(record)


def _text(record: Any) -> bytes:
    try:
        return json_text(record).encode()
    except ValueError:  # not a number
        return b""


def _json_fix(path: Path) -> str:
    if path.name.endswith("split.json"):
        return "write a new one with: toolkit dataset split, or repeat the benchmark"
    if path.name in ("benchmark.json", "pooled_metrics.json"):
        return "delete it and repeat the benchmark with --resume"
    if path.name in ("calibration.json", "card.json"):
        return "make one with: toolkit calibrate"
    return _ANEW if "cache" in path.parts else "write it again"


def _older(place: Path, found: Verified) -> None:
    found.unchecked.append(f"{printable(place)}: no checksums: written by an older version")
