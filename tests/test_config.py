"""Settings: every word of a file or an option becomes the field's type, or one line of error."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.config import (
    build_settings,
    convert,
    find_config,
    parse_overrides,
    read_yaml,
    setting,
    settings_dict,
)
from toolkit.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    epochs: int = setting(10, "How often the data is seen.")
    rate: float = setting(0.1, "Size of a step.")
    mixed: bool = setting(True, "Whether images are mixed.")
    model: str = setting("small", "Which network.")
    kind: Literal["box", "mask"] = setting("box", "What is learnt.")
    depth: Literal[18, 50] = setting(18, "Layers.")
    layers: tuple[int, ...] = setting((2, 3), "Which layers.")
    words: tuple[str, ...] = setting((), "Which words.")
    pair: tuple[float, int] = setting((0.5, 1), "Share and number.")
    limit: int | None = setting(None, "At most so many.")
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"epochs={self.epochs}: must not be negative")


@pytest.mark.parametrize(
    ("key", "given_", "expected"),
    [
        # numbers as YAML and as the command line give them
        ("epochs", 5, 5),
        ("epochs", "5", 5),
        ("epochs", "1e3", 1000),
        ("epochs", 20.0, 20),
        # more digits than a float has: a seed must not change on its way
        ("epochs", "9007199254740993", 9007199254740993),
        ("epochs", 9007199254740993, 9007199254740993),
        ("rate", 1, 1.0),
        ("rate", "3e-4", 3e-4),
        # YAML 1.1 reads 1e-3 as text
        ("rate", "1e-3", 0.001),
        # every word for yes and no
        ("mixed", "no", False),
        ("mixed", "On", True),
        ("mixed", "0", False),
        ("mixed", False, False),
        ("model", "large", "large"),
        ("model", 11, "11"),
        # choices, of text and of numbers
        ("kind", "mask", "mask"),
        ("depth", 50, 50),
        ("depth", "50", 50),
        # lists as lists, as text, as one value, as nothing
        ("layers", [1, 2], (1, 2)),
        ("layers", "1, 2,3", (1, 2, 3)),
        ("layers", 4, (4,)),
        ("layers", "", ()),
        ("layers", [], ()),
        ("words", "a,b", ("a", "b")),
        ("words", "", ()),
        ("pair", "0.25,3", (0.25, 3)),
        ("pair", [1, 2], (1.0, 2)),
        # nothing at all
        ("limit", None, None),
        ("limit", "none", None),
        ("limit", "7", 7),
        # mappings, also as text
        ("weights", {"a": 1.0}, {"a": 1.0}),
        ("weights", "{a: 1.0}", {"a": 1.0}),
        ("weights", "{}", {}),
    ],
)
def test_values_become_the_type_of_the_field(key: str, given_: Any, expected: Any) -> None:
    made = getattr(build_settings(Sample, {key: given_}, source="test"), key)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("key", "given_", "words"),
    [
        ("epochs", "many", "epochs=many: expected int"),
        ("epochs", 2.5, "expected int"),
        ("epochs", True, "expected int"),
        ("epochs", None, "expected int"),
        ("epochs", [1], "expected int"),
        ("epochs", "inf", "expected int"),
        # the settings' own check
        ("epochs", -1, "must not be negative"),
        ("rate", "fast", "expected float"),
        # what JSON cannot store
        ("rate", "nan", "expected float"),
        ("rate", float("inf"), "expected float"),
        ("rate", 10**400, "expected float"),
        ("mixed", "maybe", "expected bool"),
        ("mixed", 2, "expected bool"),
        ("model", None, "expected str"),
        # `model: no` without quotes is not the word "no"
        ("model", False, "expected str"),
        ("model", ["a"], "expected str"),
        ("kind", "masks", "did you mean 'mask'"),
        ("depth", 34, "known: 18, 50"),
        ("layers", "1,x", "layers=x: expected int"),
        ("layers", None, "expected int"),
        ("pair", "1,2,3", "expected 2 values, got 3"),
        ("limit", "few", "expected int"),
        ("weights", [1], "expected a mapping"),
        ("weights", "[1]", "expected a mapping, such as {a: 1, b: 2}"),
        ("weights", "{a", "expected a mapping"),
        # unknown keys, near and far
        ("epoch", 1, "unknown key 'epoch'; did you mean 'epochs'"),
        ("zzz", 1, "unknown key 'zzz'; known: depth, epochs"),
    ],
)
def test_wrong_values_are_one_line_with_the_source(key: str, given_: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"^my\.yaml: ") as caught:
        build_settings(Sample, {key: given_}, source="my.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_values_are_the_defaults() -> None:
    assert build_settings(Sample, {}, source="test") == Sample()


@given(
    st.builds(
        Sample,
        epochs=st.integers(0),
        rate=st.floats(allow_nan=False, allow_infinity=False),
        mixed=st.booleans(),
        model=st.text(),
        kind=st.sampled_from(["box", "mask"]),
        layers=st.lists(st.integers()).map(tuple),
        limit=st.none() | st.integers(),
        pair=st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers()),
    )
)
def test_settings_survive_json(made: Sample) -> None:
    record = json.loads(json.dumps(settings_dict(made), allow_nan=False))
    assert build_settings(Sample, record, source="run.json") == made


@given(st.integers())
def test_every_integer_survives_the_command_line(number: int) -> None:
    assert convert(str(number), int, "n") == number


def test_a_setting_keeps_its_help_and_its_place() -> None:
    @dataclass(frozen=True)
    class Made:
        a: int = setting(1, "First.")
        b: dict[str, float] = setting({"x": 1.0}, "Second.", advanced=True)

    first, second = dataclasses.fields(Made)
    assert dict(first.metadata) == {"help": "First.", "advanced": False}
    assert dict(second.metadata) == {"help": "Second.", "advanced": True}
    Made().b["x"] = 2.0
    assert Made().b == {"x": 1.0}, "instances must not share a default"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n- b\n", "expected 'key: value'"),
        (b"", "expected 'key: value'"),
        (b"a: [1\nb: 2\n", "not valid YAML at line 2"),
        (b"\xff\xfe\xfa", "not"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not"),
        (b"1: a\n", "key 1 is not text"),
        (b"on: a\n", "key True is not text"),
        # the second would win without a word
        (b"a: 1\nb: 2\na: 3\n", "at line 3 (key 'a' is already in line 1)"),
        (b"a:\n  b: 1\n  c: [{d: 1, d: 2}]\n", "at line 3 (key 'd' is already in line 3)"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"a: " + b"{x: " * 5000, "nested too deeply"),
        (b"a: 2026-99-99\n", "put the value in quotes"),
        (b"a: 1\x00\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_merged_mappings_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &x {b: 1, c: 1}\nd: {<<: *x, b: 2}\n")
    assert read_yaml(path)["d"] == {"b": 2, "c": 1}


def test_a_missing_config_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def test_find_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("method: yolo\n")
    assert find_config("own.yaml") == Path("own.yaml")
    assert find_config(str(own)) == own
    shipped = find_config("patchcore/default")
    assert shipped.is_file()
    for name in ("configs/patchcore/default.yaml", "patchcore/default.yaml"):
        assert find_config(name) == shipped
    for name in ("patchcore/defualt", "patchcore", "", ".", "../own"):
        with pytest.raises(ConfigError, match="no such config") as caught:
            find_config(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'patchcore/default'"):
        find_config("patchcore/defualt.yaml")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["a=1"], {"a": "1"}),
        (["batch-size = 4", "b="], {"batch_size": "4", "b": ""}),
        # only the first sign counts; the last word of a key wins
        (["a=b=c", "a=d"], {"a": "d"}),
        (["url=x=y"], {"url": "x=y"}),
    ],
)
def test_overrides(words: list[str], expected: dict[str, str]) -> None:
    assert parse_overrides(words) == expected


@pytest.mark.parametrize("word", ["a", "", "=1", " =1"])
def test_wrong_overrides(word: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_overrides([word])
