"""Data cards: every shipped card parses, and a wrong one says what is wrong."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.dataset_cards import (
    MVTEC_CATEGORIES,
    Symmetry,
    card_names,
    load_card,
    prompts_for,
    read_card,
)
from toolkit.data.synthetic import DEFECT_TYPES
from toolkit.errors import DataError

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


def test_every_shipped_file_is_a_known_card() -> None:
    assert {path.stem for path in DATASETS.glob("*.yaml")} == {*MVTEC_CATEGORIES, "sample"}
    assert set(card_names()) == {*MVTEC_CATEGORIES, "sample"}


@pytest.mark.parametrize("name", [*MVTEC_CATEGORIES, "sample"])
def test_card_parses_and_is_complete(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.defects
    assert all(count > 0 for count in vars(card.counts).values())
    for defect_type, phrases in card.defects.items():
        assert defect_type == defect_type.strip().lower()
        assert defect_type != "good"
        assert prompts_for(name, defect_type) == phrases
        for phrase in phrases:
            assert "/" not in phrase
            assert "_" not in phrase
    everything = [phrase for phrases in card.defects.values() for phrase in phrases]
    assert len(set(everything)) == len(everything)  # one phrase for two types would confuse them


@pytest.mark.parametrize("name", MVTEC_CATEGORIES)
def test_mvtec_card_names_source_and_licence(name: str) -> None:
    card = load_card(name)
    assert card.licence == "CC BY-NC-SA 4.0"
    assert card.citation is not None
    assert "Bergmann" in card.citation
    assert card.archive is not None
    assert urlsplit(card.archive.url).scheme == "https"
    assert card.archive.url.endswith(f"/{name}.tar.xz")


def test_totals_are_those_of_the_published_table() -> None:
    """Bergmann et al., CVPR 2019, table 1: 3629 training and 467 + 1258 test images, 73 types."""
    cards = [load_card(name) for name in MVTEC_CATEGORIES]
    assert sum(card.counts.train_good for card in cards) == 3629
    assert sum(card.counts.test_good for card in cards) == 467
    assert sum(card.counts.test_defective for card in cards) == 1258
    assert sum(len(card.defects) for card in cards) == 73
    assert len({card.archive.url for card in cards if card.archive}) == 15


@pytest.mark.parametrize(
    ("name", "symmetry"),
    [
        # stands at any angle
        ("bottle", Symmetry(("horizontal", "vertical"), "any")),
        # mirrored arms are a defect, turned ones are not
        ("metal_nut", Symmetry((), "any")),
        # the order of the wires is what is inspected
        ("cable", Symmetry((), "none")),
    ],
)
def test_symmetry(name: str, symmetry: Symmetry) -> None:
    assert load_card(name).symmetry == symmetry


def test_sample_card_fits_the_renderer() -> None:
    card = load_card("sample")
    assert card.archive is None
    assert tuple(card.defects) == DEFECT_TYPES


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("botle", "did you mean 'bottle'"),  # a slip
        ("xyzzy", "known: bottle, cable"),  # nothing near
        ("../datasets/bottle", "no data card"),  # no way out of the folder
    ],
)
def test_unknown_card(name: str, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        load_card(name)


@pytest.mark.parametrize(
    ("dataset", "defect_type", "phrases"),
    [
        ("bottle", "dent_in_side", ("dent in side",)),  # a type the card does not know
        ("my_parts", "scratch", ("scratch",)),  # a data set without a card
        ("my_parts", "hot/cold_spot", ("hot cold spot",)),  # a slash would split the phrase
    ],
)
def test_fall_back_is_the_name_of_the_type(
    dataset: str, defect_type: str, phrases: tuple[str, ...]
) -> None:
    assert prompts_for(dataset, defect_type) == phrases


@given(st.text(min_size=1))
def test_no_fall_back_phrase_holds_a_slash_or_underscore(defect_type: str) -> None:
    (phrase,) = prompts_for("no such data set", defect_type)
    assert not set("/_") & set(phrase)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counts": {"train_good": 1}}, "test_good"),  # a count is missing
        ({"symmetry": {"flips": ["up"], "rotation": "any"}}, "flips must be of"),
        ({"symmetry": {"flips": [], "rotation": 90}}, "rotation must be one of"),
        ({"defects": {"crack": []}}, "crack needs a list"),
        ({"defects": {"crack": ["a/b"]}}, "holds a '/'"),
        ({"defects": None}, "malformed"),
        ({"archive": {"url": "https://x"}}, "size is missing"),
    ],
)
def test_malformed_card(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = tmp_path / "mine.yaml"
    good = yaml.safe_load((DATASETS / "bottle.yaml").read_text())
    path.write_text(yaml.safe_dump(good))
    assert read_card(path).name == "bottle"
    path.write_text(yaml.safe_dump({**good, **change}))
    with pytest.raises(DataError, match=reason) as caught:
        read_card(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list", "", "\x00"])
def test_file_that_is_no_card(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.yaml"):
        read_card(path)


def test_a_card_of_one_s_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    raw = yaml.safe_load((DATASETS / "bottle.yaml").read_text())
    raw.update(name="flask", defects={"crack": ["crack in the flask"]})
    (tmp_path / "datasets" / "flask.yaml").write_text(yaml.safe_dump(raw))
    assert "flask" in card_names()
    assert "bottle" in card_names()
    assert prompts_for("flask", "crack") == ("crack in the flask",)


def test_class_phrases() -> None:
    from toolkit.data.dataset_cards import class_phrases
    from toolkit.data.types import Dataset, Sample

    samples = tuple(Sample(n, Path(n), n) for n in ("broken_large", "my_dent", "good"))
    phrases = class_phrases(Dataset("bottle", Path("bottle"), samples))
    assert phrases["broken_large"] == prompts_for("bottle", "broken_large")
    assert phrases["my_dent"] == ("my dent",)
    assert set(phrases) == {"broken_large", "my_dent"}
