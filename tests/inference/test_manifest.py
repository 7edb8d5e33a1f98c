"""Manifests: streamed into shards, complete or not there, read in blocks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.cli.command import run
from toolkit.errors import DataError, RunError, ToolkitError
from toolkit.inference.manifest import read_block, read_manifest, write_manifest


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_all_addresses_come_back_in_order(tmp_path: Path, form: str) -> None:
    addresses = [f"s3://plant/{i:05d}.png" for i in range(2501)]
    manifest = write_manifest(iter(addresses), tmp_path / "m", form=form, shard_rows=1200)  # type: ignore[arg-type]
    assert [shard.rows for shard in manifest.shards] == [1200, 1200, 101]
    assert [shard.first for shard in manifest.shards] == [0, 1200, 2400]
    assert read_manifest(tmp_path / "m") == manifest
    blocks = list(manifest.blocks(700))
    assert [one for block in blocks for one in read_block(block)] == addresses
    assert len({block.name for block in blocks}) == len(blocks) == 5


def test_shards_are_written_while_addresses_come(tmp_path: Path) -> None:
    seen: list[int] = []

    def addresses() -> itertools.chain[str]:  # type: ignore[misc]
        for i in range(40):
            seen.append(len(list(tmp_path.glob("m/part-*"))))
            yield f"{i}.png"

    write_manifest(addresses(), tmp_path / "m", shard_rows=10)
    assert seen[-1] == 3


def test_a_file_of_addresses_is_a_manifest(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    file.write_text("".join(json.dumps({"path": f"{i}.png"}) + "\n" for i in range(3)))
    manifest = read_manifest(file)
    assert manifest.rows == 3
    assert read_block(next(manifest.blocks(2))) == ["0.png", "1.png"]


def test_a_folder_and_its_subfolders(sample_dir: Path, tmp_path: Path) -> None:
    done = run("manifest", sample_dir / "test", "--out", tmp_path / "m")
    assert "24 images in 1 shards" in done.stderr
    manifest = read_manifest(tmp_path / "m")
    assert all(Path(one).is_file() for one in read_block(next(manifest.blocks(100))))


def test_one_line_for_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        run("manifest", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images there"):
        run("manifest", tmp_path / "empty", "--out", tmp_path / "m")
    with pytest.raises(RunError, match="no manifest; write one with"):
        read_manifest(tmp_path / "m")
    manifest = write_manifest(["a.png", "b.png"], tmp_path / "m", shard_rows=1)
    with pytest.raises(ToolkitError, match="holds a manifest already"):
        write_manifest(["a.png"], tmp_path / "m")
    manifest.shards[1].path.unlink()
    with pytest.raises(DataError, match=r"part-00001.parquet: a file of the manifest cannot be re"):
        read_block(list(manifest.blocks(1))[1])
    (tmp_path / "m/manifest.json").unlink()
    with pytest.raises(RunError, match=r"not complete \(no manifest.json\)"):
        read_manifest(tmp_path / "m")
