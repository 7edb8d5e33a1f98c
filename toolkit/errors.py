"""Errors that a user can fix.

Each message is one line that names the file (or option) and the fix. The command line prints it and
exits with `exit_status`; `--debug` prints the traceback too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ToolkitError(Exception):
    """Base of all errors that are caused by the input or the environment, not by a bug."""

    exit_status = 2
    details = ""  # lines to print behind the message


class DataError(ToolkitError):
    """A data set, image, mask or split file cannot be used as it is."""


class UnknownLayoutError(DataError):
    """A folder is no data set of a known layout.

    Args:
        message: the one line.
        details: what was found, beside what would do.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class ConfigError(ToolkitError):
    """A configuration file or option is wrong."""


class WeightsError(ToolkitError):
    """Pretrained weights are missing, damaged or of another architecture."""


class RunError(ToolkitError):
    """A run directory is missing, unfinished or does not fit the request."""


class ParityError(RunError):
    """A network in an engine, or an export, differs from its run."""

    exit_status = 1


class MissingExtraError(ToolkitError):
    """An optional dependency is needed.

    Args:
        package: the distribution that could not be imported.
        extra: the extra of this project that brings it; None for a package that every installation
            of the project has.
        purpose: what it is needed for, as the end of "needed to …".
    """

    def __init__(self, package: str, *, extra: str | None, purpose: str) -> None:
        wanted = package if extra is None else f"'inspection-toolkit[{extra}]'"
        super().__init__(f"{package} is needed to {purpose}: pip install {wanted}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch could not allocate memory, on the CPU or on a GPU.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
    """
    text = str(error)
    return type(error).__name__ == "OutOfMemoryError" or any(
        words in text for words in ("can't allocate memory", "could not create a primitive")
    )


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the known names if none is similar.

    Example:
        >>> did_you_mean("epoch", ["epochs", "batch"])
        "; did you mean 'epochs'?"
        >>> did_you_mean("size", ["epochs", "batch"])
        '; known: batch, epochs'
    """
    names = list(known)
    near = difflib.get_close_matches(str(wrong), names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(sorted(names))}" if names else ""


def printable(text: object) -> str:
    """Return a name as it may be printed in one line on any terminal.

    File names may hold line breaks, terminal commands and bytes that are not UTF-8; these are
    written as escapes.

    Example:
        >>> printable("a\\nb.png")
        'a\\\\nb.png'
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else _escaped(c) for c in plain)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that the file system could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
