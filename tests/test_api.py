"""The public API: it is what `__all__` promises, documented, typed, and cheap to import."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "ultralytics", "timm", "numpy", "cv2", "sklearn", "yaml", "PIL")


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = python("import sys, toolkit; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("name", toolkit.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(toolkit, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert value.__module__ == toolkit._MODULES[name]


def test_all_is_what_is_handed_out() -> None:
    assert sorted(toolkit.__all__) == toolkit.__all__ == sorted(toolkit._MODULES)
    assert set(toolkit.__all__) <= set(dir(toolkit))


def test_no_name_is_hidden_by_a_module() -> None:
    # Importing a submodule sets an attribute of the package: a function must not share its name.
    modules = {path.stem for path in (ROOT / "toolkit").iterdir()}
    assert not modules & set(toolkit.__all__)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        toolkit.nothing  # noqa: B018


def test_the_documentation_names_exactly_the_public_names() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `(\w+)`", page, flags=re.MULTILINE)
    assert sorted(headings) == toolkit.__all__


def test_the_package_is_typed() -> None:
    assert (ROOT / "toolkit/py.typed").is_file()
