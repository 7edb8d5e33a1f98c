"""Published figures: each has a source, and a slip in the file is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import ConfigError
from toolkit.leaderboards.published import published_references


def test_the_shipped_figures() -> None:
    found = published_references()
    assert len(found) >= 10
    assert all(one.source and one.values for one in found)
    assert all(0.5 < value <= 1 for one in found for value in one.values.values())
    of_bottle = {one.method: one.values for one in found if one.data == "bottle"}
    assert of_bottle["PatchCore WRN50"] == {"auroc": 1.0, "pixel_auroc": 0.985, "aupro": 0.971}
    # A mean over MVTec AD stands beside its categories only.
    means = [one for one in found if one.data == "mvtec"]
    assert means
    assert all(len(one.covers) == 15 and "bottle" in one.covers for one in means)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{method: a, data: b, auroc: 99}", "no 'source:'"),
        ("{data: b, source: c, auroc: 99}", "no 'method:'"),
        ("{method: a, data: b, source: c, aurok: 99}", "did you mean 'auroc'"),
        ("{method: a, data: b, source: c, auroc: 101}", "give it in percent"),
        ("{method: a, data: b, source: c, auroc: high}", "give it in percent"),
        ("just words", "no 'method:'"),
    ],
)
def test_slips(tmp_path: Path, entry: str, said: str) -> None:
    file = tmp_path / "published.yaml"
    file.write_text(f"references:\n  - {entry}\n")
    with pytest.raises(ConfigError, match=said) as caught:
        published_references(file)
    assert str(file) in str(caught.value)


def test_no_list(tmp_path: Path) -> None:
    file = tmp_path / "published.yaml"
    file.write_text("methods: []\n")
    with pytest.raises(ConfigError, match="no list"):
        published_references(file)
