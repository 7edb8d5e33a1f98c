"""The page as text: safe, the same for equal runs, and silent about this machine."""

from __future__ import annotations

import html.parser
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.made import make_run
from toolkit.data.layouts import read_dataset
from toolkit.errors import MissingExtraError
from toolkit.reporting import page
from toolkit.reporting.page import script_json
from toolkit.reporting.write import write_report

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "'\"><b>",
    "&lt;b&gt;",
    "]]>\u2028\u2029",
    "{{ 7 * 7 }}{% raw %}",
    "$ink",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_stays_json(text: str) -> None:
    written = script_json({text: [text, 1.5, None]})
    assert json.loads(written) == {text: [text, 1.5, None]}
    assert not set("<>&\u2028\u2029") & set(written)


def test_json_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


class Tags(html.parser.HTMLParser):
    """All tags with their attributes, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self._script is None:
            self.text += data


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plotting library out: its bundling takes seconds, and none of this needs it."""
    monkeypatch.setattr(page, "vega_script", lambda: "")
    monkeypatch.setattr("toolkit.reporting.write.vega_script", lambda: "")


def written(runs: Path, out: Path, **options: Any) -> Tags:
    write_report([runs], out, **options)
    return Tags(out.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("plain")
def test_hostile_names_open_no_tag(tmp_path: Path, sample_dir: Path) -> None:
    dataset = read_dataset(sample_dir)
    tame = tmp_path / "tame"
    for i, _ in enumerate(HOSTILE):
        # As many different facts, since rows of which the same is to be said share a line.
        facts = {"weights": f"w {i}", "weights_source": f"s {i}", "score_description": f"c {i}"}
        make_run(tame, dataset, entry=f"name {i}", gives=["boxes"], epochs=2, facts=facts)
    wild = tmp_path / "wild"
    for text in HOSTILE:
        make_run(wild, dataset, entry=text, gives=["boxes"], epochs=2,
                 facts={"weights": text, "weights_source": text, "score_description": text})  # fmt: skip
    one, other = written(tame, tmp_path / "a.html"), written(wild, tmp_path / "b.html")
    names = [tag for tag, _ in one.tags]
    assert [tag for tag, _ in other.tags] == names
    assert sorted(one.scripts) == sorted(other.scripts) == ["charts-data", "gallery-data"]
    gallery = json.loads(other.scripts["gallery-data"])
    assert {m["name"] for m in gallery["groups"][0]["methods"]} == set(HOSTILE)
    for text in HOSTILE:
        assert text in other.text
    assert not any(key.startswith("on") for _, attributes in other.tags for key in attributes)


@pytest.mark.usefixtures("plain")
def test_nothing_is_fetched_and_no_place_is_told(
    tmp_path: Path, sample_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs"), sample_dir, gives=["map", "mask", "boxes", "classes"], epochs=2)
    bad = make_run(Path("runs"), sample_dir, entry="b")
    record = json.loads((bad.path / "run.json").read_text())
    record["data"]["root"] = str(tmp_path / "elsewhere")
    (bad.path / "run.json").write_text(json.dumps(record))
    tags = written(Path("runs"), Path("report.html"))
    text = Path("report.html").read_text()
    for place in (tmp_path, sample_dir, Path.home()):
        assert str(place) not in text
    assert "runs/grey/002" in tags.text or "no such folder" in tags.text
    for tag, attributes in tags.tags:
        for key in ("src", "href", "data", "action"):
            value = attributes.get(key) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
    policy = next(a for tag, a in tags.tags if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in (policy["content"] or "")


@pytest.mark.usefixtures("plain")
def test_equal_runs_give_equal_bytes(tmp_path: Path, sample_dir: Path) -> None:
    make_run(tmp_path / "runs", sample_dir, gives=["map", "boxes"], epochs=2)
    make_run(tmp_path / "runs", sample_dir, entry="b", gives=["mask", "classes"])
    for name in ("a.html", "b.html"):
        write_report([tmp_path / "runs"], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.usefixtures("plain")
def test_groups_stand_apart_and_share_pictures(tmp_path: Path, sample_dir: Path) -> None:
    for plan_seed in (0, 1):
        for fold in (0, 1, 2):
            make_run(tmp_path / "runs", sample_dir, plan_seed=plan_seed, fold=fold)
    tags = written(tmp_path / "runs", tmp_path / "a.html")
    gallery = json.loads(tags.scripts["gallery-data"])
    ids = [{item["id"] for item in group["items"]} for group in gallery["groups"]]
    assert ids[0] == ids[1]  # all folds: every test image in both
    assert len(gallery["images"]) == len(ids[0])
    assert "must not be compared" in tags.text
    assert [a["id"] for tag, a in tags.tags if tag == "h2" and "id" in a][:2] == ["g1", "g2"]


def _charts(runs: Path, out: Path) -> Mapping[str, Any]:
    charts: Mapping[str, Any] = json.loads(written(runs, out).scripts["charts-data"])
    return charts


@pytest.mark.usefixtures("plain")
def test_a_section_is_there_where_there_is_something_to_show(
    tmp_path: Path, sample_dir: Path
) -> None:
    make_run(tmp_path / "one", sample_dir)
    assert set(_charts(tmp_path / "one", tmp_path / "a.html")) == {"g1-roc", "g1m0-scores"}
    for budget in (1, 2, "all"):
        make_run(tmp_path / "two", sample_dir, entry=f"a at {budget}", gives=["map"], epochs=2,
                 facts={"budget": budget, "base_entry": "a"})  # fmt: skip
    charts = _charts(tmp_path / "two", tmp_path / "b.html")
    assert {"g1-pro", "g1-budget-auroc", "g1m2-losses", "g1m2-figures"} <= set(charts)


@pytest.mark.usefixtures("plain")
def test_wrong_answers_are_told(tmp_path: Path, sample_dir: Path) -> None:
    run = make_run(tmp_path / "probe", sample_dir)
    wrong = run.record["split"]["test"][:1]
    make_run(tmp_path / "runs", sample_dir, wrong=wrong, gives=["classes"])
    gallery = json.loads(written(tmp_path / "runs", tmp_path / "a.html").scripts["gallery-data"])
    for item in gallery["groups"][0]["items"]:
        assert (item["by"][0]["flagged"] != item["defect"]) == (item["id"] in wrong)
        assert item["by"][0]["said"][0] == (
            "good" if not item["by"][0]["flagged"] else item["type"]
        )


def test_the_plots_need_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    page.vega_script.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtraError, match=r"vl-convert-python.*\[report\]"):
        page.vega_script()
