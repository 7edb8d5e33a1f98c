"""`toolkit imbalance` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from toolkit.cli.imbalance import imbalance_app
from toolkit.errors import ConfigError, DataError, ToolkitError
from toolkit.imbalance import compare as compare_module

RUNNER = CliRunner()


def _classes(root: Path, counts: dict[str, int]) -> Path:
    generator = torch.Generator().manual_seed(0)
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = torch.randint(60 * number, 60 * number + 50, (20, 20, 3), generator=generator)
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / name / f"{i}.png")
    return root


def _run(*words: object) -> str:
    result = RUNNER.invoke(imbalance_app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["paper", "reconstruction", "none"])
def test_deepsmote_writes_an_image_folder(tmp_path: Path, penalty: str) -> None:
    data = _classes(tmp_path / "data", {"good": 7, "a": 3, "b": 4})
    out = tmp_path / "out"
    output = _run(
        "deepsmote", "--data", data, "--out", out, "--size", 16, "--epochs", 2,
        "--num-neighbors", 2, "--penalty", penalty,
    )  # fmt: skip
    assert "a: 3 real, 4 synthetic" in output
    assert {f.name: len(list(f.iterdir())) for f in out.iterdir() if f.is_dir()} == {"a": 4, "b": 3}
    assert Image.open(out / "a" / "synthetic-0001.png").size == (16, 16)
    assert (out / "contact_sheet.png").is_file()
    report = json.loads((out / "report.json").read_text())
    assert report["penalty"] == penalty
    assert (report["losses"][0][1] > 0) == (penalty != "none")


@pytest.mark.slow
def test_a_data_set_gives_its_training_part(tmp_path: Path, sample_dir: Path) -> None:
    from toolkit.data.layouts import load_dataset
    from toolkit.data.protocols import make_plan

    output = _run(
        "deepsmote", "--data", sample_dir, "--out", tmp_path / "out", "--size", 16, "--epochs", 1,
        "--num-neighbors", 1,
    )  # fmt: skip
    dataset = load_dataset(sample_dir)
    train = [s.label for s in make_plan(dataset).fold(dataset, 0).train]
    for name in ("good", *dataset.classes):
        assert f"{name}: {train.count(name)} real" in output


def test_compare_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "_STEPS", 5)
    data = tmp_path / "data"
    _classes(data / "train", {"a": 6, "b": 3})
    _classes(data / "test", {"a": 3, "b": 3})
    output = _run(
        "compare", "--data", data, "--size", 16, "--epochs", 1, "--num-neighbors", 2, "--seeds", 2
    )
    assert "training images: a 6, b 3; 6 test images; 2 seeds" in output
    assert all(name in output for name in ("without", "paper", "reconstruction", "ACSA", "G-mean"))


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--num-neighbors", "3"], ConfigError, "--num-neighbors=3: class a has 3 training images"),
        (["--size", "33"], ConfigError, "--size 33: choose one of 16, 32, 64, 128"),
        (["--epochs", "0"], ConfigError, "--epochs 0: give at least 1"),
        (["--data", "nowhere"], DataError, "nowhere: no such folder"),
    ],
)
def test_bad_input_is_refused_before_training(
    tmp_path: Path, words: list[str], kind: type[ToolkitError], message: str
) -> None:
    data = _classes(tmp_path / "data", {"good": 7, "a": 3})
    arguments = ["deepsmote", "--data", str(data), "--out", str(tmp_path / "out"), "--size", "16"]
    with pytest.raises(kind, match=message):
        RUNNER.invoke(imbalance_app, [*arguments, *words], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_a_class_of_one_image_is_refused(tmp_path: Path) -> None:
    data = _classes(tmp_path / "data", {"good": 7, "a": 1})
    with pytest.raises(DataError, match="class a has 1 training images; add some"):
        RUNNER.invoke(
            imbalance_app,
            ["deepsmote", "--data", str(data), "--out", str(tmp_path / "out")],
            catch_exceptions=False,
        )


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"a": 3, "b": 3}, {}, "test: no class folders; make them with"),
        ({"a": 3, "b": 3}, {"a": 2, "c": 2}, "class b is not in both train/ and test/"),
    ],
)
def test_compare_needs_both_parts(
    tmp_path: Path, train: dict[str, int], test: dict[str, int], message: str
) -> None:
    _classes(tmp_path / "train", train)
    _classes(tmp_path / "test", test)
    with pytest.raises(DataError, match=message):
        RUNNER.invoke(imbalance_app, ["compare", "--data", str(tmp_path)], catch_exceptions=False)


def test_odd_class_sizes_of_digits_are_refused() -> None:
    words = ["compare", "--largest", "500"]
    with pytest.raises(ConfigError, match="--largest 500: from 2 to 110"):
        RUNNER.invoke(imbalance_app, words, catch_exceptions=False)
