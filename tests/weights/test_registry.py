"""The shipped registry is sound, and a wrong one is refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from toolkit.errors import WeightsError
from toolkit.weights import registry

# Of public projects; packages come through their clients, never by address.
OFFICIAL_HOSTS = {
    "raw.githubusercontent.com",
    "github.com",
    "dl.fbaipublicfiles.com",
    "download.pytorch.org",
    "openaipublic.azureedge.net",
}


@pytest.mark.parametrize("entry", registry.load().values(), ids=lambda entry: entry.name)
def test_shipped_entry_is_sound(entry: registry.Weights) -> None:
    assert entry.description
    assert entry.licence in {"Apache-2.0", "AGPL-3.0", "BSD-3-Clause", "MIT"}
    assert Path(entry.file).name == entry.file
    assert entry.url or entry.mirrors
    if entry.url:
        assert urlsplit(entry.url).scheme == "https"
        assert urlsplit(entry.url).hostname in OFFICIAL_HOSTS
    if entry.sha256:
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    if entry.sha256_prefix:
        assert re.fullmatch(r"[0-9a-f]{8}", entry.sha256_prefix)
        assert entry.sha256_prefix in entry.file
    for mirror in entry.mirrors:
        assert mirror.client in {"pip", "npm"}
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", mirror.package)
        assert re.fullmatch(r"[0-9a-f]{64}", mirror.sha256)
        if entry.rebuild is None:
            assert mirror.sha256 == entry.sha256
    assert (entry.rebuild is None) == (entry.tensors_sha256 is None)


def test_file_names_are_unique() -> None:
    files = [entry.file for entry in registry.load().values()]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mobilesam", "did you mean 'mobile-sam'"),  # near
        ("yolov8s-worldv3", "did you mean 'yolov8s-worldv2'"),  # near
        ("zzz", "known: clip-vit-b-32"),  # far: all names
    ],
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(WeightsError, match=hint):
        registry.get(name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("net: [", "not valid YAML"),
        ("- net", "expected 'key: value' lines"),
        ("net: 3", "net must be a mapping"),
        ("net: {description: d, licence: MIT}", "'file'"),  # missing field
        ("net: {description: d, licence: MIT, file: f, sha: x}", "'sha'"),  # unknown field
    ],
)
def test_wrong_registry(write_registry: Callable[..., Path], text: str, reason: str) -> None:
    path = write_registry()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=reason) as caught:
        registry.load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "sha256", "accepted"),
    [
        ({"sha256": "ab" * 32}, "ab" * 32, True),
        ({"sha256": "ab" * 32}, "cd" * 32, False),
        ({"sha256_prefix": "abab"}, "ab" * 32, True),
        ({"sha256_prefix": "cdcd"}, "ab" * 32, False),
        ({}, "ab" * 32, True),  # nothing to compare with
        ({"sha256": "ab" * 32, "sha256_prefix": "cdcd"}, "ab" * 32, True),  # the whole one counts
    ],
)
def test_accepts(facts: dict[str, str], sha256: str, accepted: bool) -> None:
    entry = registry.Weights(name="n", description="d", licence="MIT", file="f", **facts)
    assert entry.accepts(sha256) is accepted
