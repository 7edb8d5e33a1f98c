"""What to say of a folder that no layout recognises: what was found, and what would do."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from toolkit.data.images import is_image_file
from toolkit.data.layouts.tree import subfolders
from toolkit.errors import printable

_MOST_LINES = 12
_MOST_FOLDERS = 4
_DEPTH = 3
_WIDTH = 38
_WOULD_DO = (
    "good/*.png  bad/*.png",
    "  (or OK/ NG/, a folder per defect type,",
    "  below train/ test/; masks/ as well)",
    "train/good  test/good  test/<type>",
    "  ground_truth/<type>   (MVTec AD)",
    "images/*.png  masks/*.png",
    "images/*.png  labels/*.txt   (YOLO)",
    "images/*.png  annotations/*.json   (COCO)",
    "*.png   (good images alone)",
)


def found_beside_expected(root: Path) -> str:
    """Return the tree of a folder beside the trees that are read, one line each."""
    name = f"{printable(root.resolve().name)}/"
    left = ["found", _cut(name), *(_cut(line) for line in tree_lines(root))]
    right = ["would do, one of", *_WOULD_DO]
    rows = zip_longest(left, right, fillvalue="")
    return "\n".join(f"  {one:{_WIDTH}}  {other}".rstrip() for one, other in rows)


def tree_lines(root: Path) -> list[str]:
    """Return a folder's tree: folders with the number of files in each, nested ones indented."""
    lines = _files_in(root, "  ") + _lines(root, "  ", _DEPTH)
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], "  …"]
    return lines or ["  (empty)"]


def _lines(folder: Path, indent: str, depth: int) -> list[str]:
    inner = subfolders(folder)
    lines = []
    for one in inner[:_MOST_FOLDERS]:
        lines.append(f"{indent}{printable(one.name)}/{_count(one)}")
        if depth > 1:
            lines += _lines(one, f"{indent}  ", depth - 1)
    if len(inner) > _MOST_FOLDERS:
        lines.append(f"{indent}… and {len(inner) - _MOST_FOLDERS} more folders")
    return lines


def _files_in(folder: Path, indent: str) -> list[str]:
    count = _count(folder).strip()
    return [f"{indent}{count}"] if count else []


def _count(folder: Path) -> str:
    """Count the files of a folder: its images, and the endings of all others."""
    try:
        files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")]
    except OSError:
        return "  (cannot be read)"
    images = sum(map(is_image_file, files))
    others = sorted({f.suffix.lower() or f.name for f in files if not is_image_file(f)})
    words = [f"{images} image{'s' * (images != 1)}"] * bool(images) + list(map(printable, others))
    return f"  {', '.join(words)}" if words else ""


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
