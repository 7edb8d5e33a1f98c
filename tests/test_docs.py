"""The documents: links lead somewhere, commands and Python names exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import toolkit
from toolkit.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield language and text of code blocks, fenced or indented by four spaces."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield found[1], found[2]
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"(?:^ {4}.*\n)+", plain, flags=re.MULTILINE):
        yield "", found[0]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def commands(page: Path) -> Iterator[list[str]]:
    for _, text in blocks(page.read_text(encoding="utf-8")):
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip().startswith("toolkit "):
                yield shlex.split(line.strip(), comments=True)[1:]


def check_command(words: list[str]) -> None:
    command: Any = COMMANDS
    while hasattr(command, "list_commands"):
        assert words, f"{command.name}: names no command"
        assert words[0] in command.list_commands(None), f"unknown command {words[0]}"
        command = command.get_command(None, words.pop(0))
    known = {"--help", *(name for p in command.params for name in (*p.opts, *p.secondary_opts))}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{command.name}: {word}"
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        check_command([w for w in words if w not in ("...", "[RUNS...]")])


def test_wrong_commands_are_noticed() -> None:
    for words in (["trian", "padim"], ["train", "padim", "--dta", "x"], ["dataset"]):
        with pytest.raises(AssertionError):
            check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_use_public_names(page: Path) -> None:
    for language, text in blocks(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "toolkit" or node.attr in toolkit.__all__, node.attr
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("toolkit"):
                module = __import__(str(node.module), fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names), node.module
