"""Errors that a user can fix: one base class, one exit status, one line."""

from __future__ import annotations

import pytest

from toolkit import errors
from toolkit.errors import MissingExtraError, ToolkitError, did_you_mean


def test_all_are_one_family_with_status_two_for_wrong_input() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(kinds) >= 6
    for kind in kinds:
        assert issubclass(kind, ToolkitError)
        # The input of a network that differs in another engine is not wrong.
        assert kind.exit_status == (1 if kind is errors.ParityError else 2)


def test_a_missing_extra_names_the_command() -> None:
    error = MissingExtraError("onnx", extra="onnx", purpose="rebuild MobileSAM")
    assert str(error) == (
        "onnx is needed to rebuild MobileSAM: pip install 'inspection-toolkit[onnx]'"
    )


@pytest.mark.parametrize(
    ("wrong", "known", "expected"),
    [
        # a near one alone, the nearest of two
        ("epoch", ["epochs", "batch"], "; did you mean 'epochs'?"),
        ("masks", ["mask", "task"], "; did you mean 'mask'?"),
        # none is near: all, sorted
        ("zzz", ["b", "a"], "; known: a, b"),
        # nothing is known
        ("x", [], ""),
        # an iterator is read once
        ("zzz", iter(["b", "a"]), "; known: a, b"),
        ("", ["a"], "; known: a"),
    ],
)
def test_did_you_mean(wrong: str, known: list[str], expected: str) -> None:
    assert did_you_mean(wrong, known) == expected
