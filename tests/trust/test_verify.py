"""One flipped bit, or a cut, in any file that was written: `toolkit verify` names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command import run as command
from tests.tiny import TinyRuns
from toolkit.array_cache import ArrayCache
from toolkit.data.layouts import load_dataset
from toolkit.data.protocols import make_plan
from toolkit.data.shortcuts import find_shortcuts
from toolkit.data.synthetic import make_sample
from toolkit.errors import ConfigError, ToolkitError
from toolkit.formats.convert import WRITERS, convert
from toolkit.home import cache_dir
from toolkit.inference.export import export_run
from toolkit.leaderboards.benchmark_files import Display, write_display
from toolkit.methods.registry import load_method
from toolkit.runs.run import Run
from toolkit.verification.verify import verify


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, tiny_runs: TinyRuns, sample_dir: Path
) -> dict[str, Path]:
    """One of everything that has checksums."""
    folder = tmp_path_factory.mktemp("written")
    dataset = load_dataset(sample_dir)
    found: dict[str, Path] = {}
    for to in WRITERS:
        found[to] = folder / to
        convert(dataset, to=to, out=found[to], images="copy" if to == "coco" else "link")
    for method in ("padim", "classifier"):
        found[method] = folder / "runs" / method
        shutil.copytree(tiny_runs(method).path, found[method])
    run = Run.open(found["padim"])
    found["export"] = folder / "export"
    export_run(run, load_method(run), dataset, found["export"], say=lambda line: None)
    make_plan(dataset, protocol="supervised").write(folder / "a.split.json")
    found["split"] = folder / "a.split.json"
    cache = ArrayCache("features", {}, shape=(4,), dtype=np.float32, folder=folder / "cache")
    cache.put("key", np.arange(4, dtype=np.float32))
    found["cache"] = folder / "cache"
    write_display(folder / "cache", {"row": Display()})
    return found


KINDS = (*WRITERS, "padim", "classifier", "export", "split", "cache")
OWN = (".lock",)


def files_of(place: Path) -> list[Path]:
    """Return the files that were written, no links to the data set."""
    if place.is_file():
        return [place]
    return [p for p in sorted(place.rglob("*")) if p.is_file() and p.name not in OWN]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_whole_and_every_file_is_checked(
    kind: str, places: dict[str, Path]
) -> None:
    found = verify([places[kind]])
    assert (found.damaged, found.unchecked) == ([], [])
    assert found.files == len(files_of(places[kind]))


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "missing"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classifier"])  # it is large
def test_damage_is_noticed_by_name(
    kind: str,
    damage: str,
    places: dict[str, Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    place = tmp_path / places[kind].name
    if places[kind].is_file():
        shutil.copyfile(places[kind], place)
    else:
        shutil.copytree(places[kind], place, symlinks=True)
    rng = np.random.default_rng(len(kind))
    tried = 0
    for file in files_of(place):
        whole = file.read_bytes()
        if file.is_symlink() or not whole:
            continue
        # Where a folder holds no other trace of a file, nobody can miss it.
        if damage == "missing" and (kind in ("cache", "split") or file.name == "checksums.json"):
            continue
        if damage == "missing" and file.name in ("run.json", "metrics.json", "manifest.json"):
            continue
        bits = [int(rng.integers(len(whole) * 8)), 0, len(whole) * 8 - 1]
        for bit in bits if damage == "bit" else [0]:
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            cut = whole[: int(rng.integers(1, len(whole)))] if len(whole) > 1 else b""
            file.write_bytes({"bit": bytes(changed), "cut": cut}.get(damage, b""))
            if damage == "missing":
                file.unlink()
            damaged = [one.path for one in verify([place]).damaged]
            assert damaged == [file], (file, bit)
            tried += 1
        file.write_bytes(whole)
    record_property("cases", tried)
    assert tried or damage == "missing"
    assert not verify([place]).damaged


def test_the_target_of_a_link_counts(sample_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(sample_dir, tmp_path / "data")
    convert(tmp_path / "data", to="yolo", out=tmp_path / "out")
    image = next((tmp_path / "data/train/good").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    (damage,) = verify([tmp_path / "out"]).damaged
    assert damage.path.resolve() == image.resolve()
    assert f"(a link to {image})" in str(damage)
    assert str(damage).endswith("remove the folder and convert again")


def test_command(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["padim"], tmp_path / "runs/padim/one")
    result = command("verify", tmp_path / "runs", places["split"])
    assert result.exit_code == 0
    assert result.stdout.endswith(" files checked, 0 damaged\n")
    metrics = tmp_path / "runs/padim/one/metrics.json"
    metrics.write_text(metrics.read_text().replace("0", "1", 1))
    result = command("verify", tmp_path / "runs")
    assert result.exit_code == 1
    first, last = result.stdout.splitlines()
    assert first == (
        f"{metrics}: damaged: its checksum differs; write it again with: toolkit evaluate "
        f"{metrics.parent}"
    )
    assert last.endswith(" files checked, 1 damaged")
    assert command("evaluate", metrics.parent).exit_code == 0
    assert command("verify", tmp_path / "runs").exit_code == 0


def test_damaged_predictions_are_made_again(
    places: dict[str, Path], sample_dir: Path, tmp_path: Path
) -> None:
    options = ["--weights", "none", "--image-size", "64", "--n-features", "8"]
    words = ["train", "padim", "--data", sample_dir, "--runs", tmp_path, "--name", "a", *options]
    assert command(*words).exit_code == 0
    run = tmp_path / "padim/a"
    path = run / "predictions/test.jsonl"
    whole = [json.loads(line)["score"] for line in path.read_text().splitlines()]
    path.write_bytes(path.read_bytes()[:-40])
    (damage,) = verify([run]).damaged
    assert damage.path == path
    assert damage.fix == "remove metrics.json beside it and repeat the training with --resume"
    (run / "metrics.json").unlink()
    assert command(*words, "--resume").exit_code == 0
    assert not verify([run]).damaged
    assert [json.loads(line)["score"] for line in path.read_text().splitlines()] == whole


def test_evaluating_does_not_hide_other_damage(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["padim"], tmp_path / "run")
    run = Run.open(tmp_path / "run")
    (weights,) = run.weights.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    run.finish(run.metrics())
    assert [one.path for one in verify([run.path]).damaged] == [weights]


def test_older_folders_are_readable_and_named(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["padim"], tmp_path / "run")
    shutil.copytree(places["yolo"], tmp_path / "set", symlinks=True)
    for folder in ("run", "set"):
        (tmp_path / folder / "checksums.json").unlink()
    (tmp_path / "cache").mkdir()
    np.save(tmp_path / "cache/a.npy", np.zeros(3))
    found = verify([tmp_path])
    assert found.files == 0
    assert sorted(found.unchecked) == [
        f"{tmp_path / name}: no checksums: written by an older version"
        for name in ("cache/a.npy", "run", "set")
    ]
    assert command("verify", tmp_path).exit_code == 0
    Run.open(tmp_path / "run").finish(Run.open(tmp_path / "run").metrics())
    assert not (tmp_path / "run/checksums.json").exists()  # half a record would promise too much


def test_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("text")
    for place, message in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "nothing there that has checksums"),
        (tmp_path / "text.txt", "no checksums are kept"),
    ):
        with pytest.raises(ConfigError, match=message):
            verify([place])


def test_a_run_that_is_not_finished(places: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(places["padim"], tmp_path / "run")
    (tmp_path / "run/checksums.json").unlink()
    (tmp_path / "run/metrics.json").unlink()
    assert verify([tmp_path]).unchecked == [
        f"{tmp_path}/run: not finished, so it has no checksums yet"
    ]


def test_a_cached_array_with_a_flipped_bit_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ArrayCache("kind", {}, shape=(4,), dtype=np.float32, folder=tmp_path)
    value = np.arange(4, dtype=np.float32)
    cache.put("key", value)
    path = cache.path("key")
    np.testing.assert_array_equal(np.load(path), value)  # any program reads it
    data = bytearray(path.read_bytes())
    data[130] ^= 1
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(cache.get_or_compute("key", lambda: value), value)
    assert capsys.readouterr().err == f"{path}: damaged; computing it again\n"
    assert not verify([tmp_path]).damaged


def test_damaged_caches_in_json_are_made_again(tmp_path: Path) -> None:
    dataset = load_dataset(
        make_sample(tmp_path / "data", size=64, train_good=12, test_good=12, per_defect=2)
    )
    wanted = find_shortcuts(dataset)
    (file,) = (cache_dir() / "shortcuts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"0.", b"1.", 1) if b"0." in whole else b"[]")
    assert find_shortcuts(dataset) == wanted
    assert file.read_bytes() == whole


def test_a_changed_threshold_of_an_export_or_a_card_is_refused(
    places: dict[str, Path], tmp_path: Path
) -> None:
    from toolkit.runtime.exported import ModelError, read_manifest
    from toolkit.verification.checksums import read_sealed, write_sealed

    shutil.copytree(places["export"], tmp_path / "export")
    manifest = tmp_path / "export/manifest.json"
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "threshold": record["threshold"] + 1}))
    with pytest.raises(ModelError, match="changed since it was written; export again"):
        read_manifest(tmp_path / "export")
    write_sealed(tmp_path / "card.json", {"threshold": 1})
    text = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(text.replace('"threshold": 1', '"threshold": 2'))
    with pytest.raises(ToolkitError, match=r"card\.json: changed since it was written; fix"):
        read_sealed(tmp_path / "card.json", fix="fix")
