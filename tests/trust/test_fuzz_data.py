"""Mutated data: images, masks, split files, converted sets, archives."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.trust.fuzz import PICTURES, _counted, data, fuzz, numbers, refused, work
from tests.trust.mutate import json_bytes, mutated, mutated_json
from toolkit.data.archive import unpack
from toolkit.data.images import (
    image_size,
    read_mask,
    read_mask_values,
    read_regions,
    read_rgb,
    whole_image_size,
)
from toolkit.data.layouts import load_dataset
from toolkit.data.splits import SplitPlan

__all__ = ["_counted", "data", "work"]


@fuzz
@given(number=numbers, name=st.sampled_from(sorted(PICTURES)))
def test_images_and_masks(work: Path, number: int, name: str) -> None:
    from toolkit.runtime import exported

    path = work / name
    path.write_bytes(mutated(PICTURES[name], number))
    for read in (read_rgb, read_mask, read_mask_values, image_size, whole_image_size):
        with refused():
            read(path)
    with refused(exported.ModelError):
        exported.read_rgb(path)


@fuzz
@given(number=numbers, resealed=st.booleans())
def test_split_files(work: Path, data: Path, number: int, resealed: bool) -> None:
    from toolkit.data.protocols import make_plan
    from toolkit.data.splits import _checksum

    dataset, path = load_dataset(data), work / "a.split.json"
    make_plan(dataset, protocol="supervised", folds=3).write(path)
    record = json.loads(path.read_bytes())
    if resealed:  # as one who wants it to be read would do
        record = mutated_json(record, number)
        if isinstance(record, dict):
            record.pop("checksum", None)
            with contextlib.suppress(Exception):
                plan = SplitPlan.read(path)
                record["hash"] = replace(plan, folds=record["folds"]).hash
            with contextlib.suppress(TypeError, ValueError):
                record["checksum"] = _checksum(record)
        path.write_bytes(json_bytes(record))
    else:
        path.write_bytes(mutated(path.read_bytes(), number))
    with refused():
        SplitPlan.read(path).fold(dataset, 0)


def converted(folder: Path, data: Path, to: str) -> Path:
    """Return a converted set, made once."""
    from toolkit.formats.convert import convert

    out = folder / f"whole-{to}"
    if not out.exists():
        convert(data, to=to, out=out, images="copy")
    return out


@fuzz
@given(
    number=numbers,
    to=st.sampled_from(["coco", "yolo", "yolo-seg", "sam"]),
    structured=st.booleans(),
)
def test_readers_of_converted_sets(
    work: Path, data: Path, number: int, to: str, structured: bool
) -> None:
    from toolkit.formats.readers import open_converted
    from toolkit.formats.report import Report

    whole = converted(work, data, to)
    changed = work / f"changed-{to}"
    if not changed.exists():
        shutil.copytree(whole, changed)
    files = sorted(p for p in whole.rglob("*") if p.suffix in (".json", ".jsonl", ".txt", ".yaml"))
    file = files[number % len(files)]
    content = file.read_bytes()
    if structured and file.suffix == ".json":
        content = json_bytes(mutated_json(json.loads(content), number))
    else:
        content = mutated(content, number)
    (changed / file.relative_to(whole)).write_bytes(content)
    try:
        with refused():
            for image in open_converted(changed):
                for shape in image.shapes[:3]:
                    shape.mask(image.size_wh)
        with refused():
            for sample in list(load_dataset(changed))[:6]:
                read_regions(sample)
        with refused():
            Report.read(changed)
    finally:
        shutil.copyfile(file, changed / file.relative_to(whole))


def archives() -> dict[str, bytes]:
    """Return small archives of every kind."""
    found = {}
    for name, mode in (("a.tar", "w:"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz")):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
            for number in range(3):
                info = tarfile.TarInfo(f"bottle/train/good/{number}.png")
                info.size = 40
                tar.addfile(info, io.BytesIO(bytes([number]) * 40))
        found[name] = data.getvalue()
    for name, method in (("a.zip", zipfile.ZIP_DEFLATED), ("b.zip", zipfile.ZIP_LZMA)):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", method) as opened:
            for number in range(3):
                opened.writestr(f"bottle/train/good/{number}.png", bytes([number]) * 40)
        found[name] = data.getvalue()
    return found


ARCHIVES = archives()


@fuzz
@given(number=numbers, name=st.sampled_from(sorted(ARCHIVES)))
def test_archives(work: Path, number: int, name: str) -> None:
    path, into = work / name, work / "into"
    path.write_bytes(mutated(ARCHIVES[name], number))
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    before = sorted(p.name for p in work.iterdir())
    with refused():
        unpack(path, into, folder="bottle")
    assert sorted(p.name for p in work.iterdir()) == before
