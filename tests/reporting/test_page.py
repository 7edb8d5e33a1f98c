"""The page as text: safe, reproducible, and without folders of this machine."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.fake_runs import make_run
from toolkit.data.layouts import load_dataset
from toolkit.errors import MissingExtraError
from toolkit.reporting import page
from toolkit.reporting.page import printable, script_json
from toolkit.reporting.write import ImagesMissingWarning, RunLeftOutWarning, report

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "'\"><b>",
    "&lt;b&gt;",
    "]]>\u2028\u2029",
    "{{ 7 * 7 }}{% raw %}",
    "$ink",
    "two\nlines\r\ttabs",
    "\x1b[31mred\x1b[0m\x07",
    "\u202egpj.exe\u202c\u2066",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_stays_json(text: str) -> None:
    written = script_json({text: [text, 1.5, None]})
    assert json.loads(written) == {text: [text, 1.5, None]}
    assert not set("<>&\u2028\u2029") & set(written)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Schraube Ø 5 mm, 螺丝", "Schraube Ø 5 mm, 螺丝"),
        ("a\nb", "a\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202ex\u2069", "\\u202ex\\u2069"),
        ("\udcff", "\\udcff"),
    ],
)
def test_control_characters_become_visible(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable({text: [(text, 1.5, None)]}) == {expected: [[expected, 1.5, None]]}


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
    report([runs], out, **options)
    return Tags(out.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("plain")
def test_hostile_names_open_no_tag(tmp_path: Path, sample_dir: Path) -> None:
    dataset = load_dataset(sample_dir)
    tame = tmp_path / "tame"
    for i, _ in enumerate(HOSTILE):
        # Different metadata, because rows with equal notes share a line.
        metadata = {"weights": f"w {i}", "weights_source": f"s {i}", "score_description": f"c {i}"}
        make_run(tame, dataset, entry=f"name {i}", outputs=["boxes"], epochs=2, metadata=metadata)
    wild = tmp_path / "wild"
    for text in HOSTILE:
        metadata = {"weights": text, "weights_source": text, "score_description": text}
        make_run(wild, dataset, entry=text, outputs=["boxes"], epochs=2, metadata=metadata)
    one, other = written(tame, tmp_path / "a.html"), written(wild, tmp_path / "b.html")
    names = [tag for tag, _ in one.tags]
    assert [tag for tag, _ in other.tags] == names
    assert sorted(one.scripts) == sorted(other.scripts) == ["charts-data", "gallery-data"]
    gallery = json.loads(other.scripts["gallery-data"])
    assert {m["name"] for m in gallery["groups"][0]["methods"]} == set(map(printable, HOSTILE))
    for text in HOSTILE:
        assert printable(text) in other.text
    assert not {c for c in other.text if not c.isprintable()} - {"\n"}
    assert not any(key.startswith("on") for _, attributes in other.tags for key in attributes)


@pytest.mark.usefixtures("plain")
def test_nothing_is_fetched_and_no_folder_is_named(
    tmp_path: Path, sample_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs"), sample_dir, outputs=["map", "mask", "boxes", "classes"], epochs=2)
    bad = make_run(Path("runs"), sample_dir, entry="b")
    (bad.path / "metrics.json").write_text("{")
    with pytest.warns(RunLeftOutWarning, match="grey/002"):
        tags = written(Path("runs"), Path("report.html"))
    text = Path("report.html").read_text()
    for place in (tmp_path, sample_dir, Path.home()):
        assert str(place) not in text
    assert "runs/grey/002" in tags.text
    for tag, attributes in tags.tags:
        for key in ("src", "href", "data", "action"):
            value = attributes.get(key) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
    policy = next(a for tag, a in tags.tags if tag == "meta" and "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in (policy["content"] or "").split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) & {"connect-src", "frame-src", "object-src", "worker-src"} == set()
    # Exactly the scripts of the page may run.
    text = Path("report.html").read_bytes().decode()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert rules["script-src"].split() == [f"'sha256-{one}'" for one in hashes]
    assert len(scripts) == 2


def _gallery(tags: Tags) -> Mapping[str, Any]:
    gallery: Mapping[str, Any] = json.loads(tags.scripts["gallery-data"])
    return gallery


@pytest.mark.usefixtures("plain")
def test_without_the_data_set_everything_but_images_is_there(
    tmp_path: Path, sample_dir: Path
) -> None:
    data = shutil.copytree(sample_dir, tmp_path / "data")
    make_run(tmp_path / "runs", data, outputs=["map", "mask", "boxes"])
    complete = written(tmp_path / "runs", tmp_path / "a.html")
    shutil.rmtree(data)
    with pytest.warns(ImagesMissingWarning, match=f"images not found at {data} .*--data"):
        tags = written(tmp_path / "runs", tmp_path / "b.html")
    assert "images not found at" in tags.text
    assert str(data) not in tags.text
    charts = json.loads(complete.scripts["charts-data"])
    assert set(json.loads(tags.scripts["charts-data"])) == set(charts) - {"g1-pro"}
    before, after = _gallery(complete), _gallery(tags)
    assert after["groups"] == before["groups"]
    for one, other in zip(before["images"], after["images"], strict=True):
        assert other == {**one, "webp": "", "truth": ""}
    # The images alone, without training images and masks, are enough to draw them.
    shutil.copytree(sample_dir / "test", data / "test")
    with pytest.warns(ImagesMissingWarning, match="may not fit"):
        tags = written(tmp_path / "runs", tmp_path / "c.html")
    assert [i["webp"] for i in _gallery(tags)["images"]] == [i["webp"] for i in before["images"]]


@pytest.mark.usefixtures("plain")
def test_changed_data_is_named(tmp_path: Path, sample_dir: Path) -> None:
    data = shutil.copytree(sample_dir, tmp_path / "data")
    make_run(tmp_path / "runs", data, outputs=["map"])
    masks = sorted((data / "ground_truth").rglob("*.png"))
    shutil.copyfile(masks[0], masks[-1])
    with pytest.warns(ImagesMissingWarning, match="differs from the data of the runs"):
        tags = written(tmp_path / "runs", tmp_path / "a.html")
    assert "may not fit the metrics" in tags.text
    assert "g1-pro" not in json.loads(tags.scripts["charts-data"])


@pytest.mark.usefixtures("plain")
def test_ranks_are_by_value_and_the_top_group_is_marked(tmp_path: Path, sample_dir: Path) -> None:
    probe = make_run(tmp_path / "probe", sample_dir)
    tested = probe.record["split"]["test"]
    for entry, wrong in (("best", []), ("close", tested[:1]), ("bad", tested)):
        make_run(tmp_path / "runs", sample_dir, entry=entry, wrong=wrong)
    tags = written(tmp_path / "runs", tmp_path / "a.html")
    ranks = [a["data-rank"] for tag, a in tags.tags if tag == "td" and "data-rank" in a]
    assert ranks == ["1", "2", "3"]
    assert [tag for tag, a in tags.tags if a.get("class") == "top-group"] == ["tr", "tr"]
    assert "not significantly different" in tags.text


@pytest.mark.usefixtures("plain")
def test_equal_runs_give_equal_bytes(tmp_path: Path, sample_dir: Path) -> None:
    make_run(tmp_path / "runs", sample_dir, outputs=["map", "boxes"], epochs=2)
    make_run(tmp_path / "runs", sample_dir, entry="b", outputs=["mask", "classes"])
    for name in ("a.html", "b.html"):
        report([tmp_path / "runs"], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.usefixtures("plain")
def test_groups_are_separate_and_share_images(tmp_path: Path, sample_dir: Path) -> None:
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


@pytest.mark.usefixtures("plain")
def test_several_data_sets_have_an_overview(tmp_path: Path, sample_dir: Path) -> None:
    for name in ("nut", "bottle"):
        shutil.copytree(sample_dir, tmp_path / name)
        if name == "nut":  # else the two would be one data set
            next((tmp_path / "nut/train/good").iterdir()).unlink()
        for entry, seed in (("a", 0), ("<b>", 1)):
            warning = [f"light of {name}"]
            make_run(
                tmp_path / "runs" / name,
                tmp_path / name,
                entry=entry,
                seed=seed,
                metadata={"data_warnings": warning},
            )
    tags = written(tmp_path / "runs", tmp_path / "a.html")
    first = next(a["id"] for tag, a in tags.tags if tag == "h2" and "id" in a)
    assert first == "overview1"
    assert "AUROC on 2 categories: protocol supervised, fold 0" in tags.text
    assert tags.text.count("Warning: light of nut. A score may rest on this.") == 1
    assert "nut: warning: light of nut" in tags.text
    assert "PatchCore WRN50" in tags.text  # published for bottle
    table = tags.text.split("AUROC on 2 categories")[1].split("Click a heading")[0]
    for word in ("bottle", "nut", "mean", "wins", "ties", "rank", "<b>"):
        assert word in table


def _charts(runs: Path, out: Path) -> Mapping[str, Any]:
    charts: Mapping[str, Any] = json.loads(written(runs, out).scripts["charts-data"])
    return charts


@pytest.mark.usefixtures("plain")
def test_sections_without_content_are_left_out(tmp_path: Path, sample_dir: Path) -> None:
    make_run(tmp_path / "one", sample_dir)
    assert set(_charts(tmp_path / "one", tmp_path / "a.html")) == {"g1-roc", "g1-m0-scores"}
    for budget in (1, 2, "all"):
        make_run(tmp_path / "two", sample_dir, entry=f"a at {budget}", outputs=["map"], epochs=2,
                 metadata={"budget": budget, "base_entry": "a"})  # fmt: skip
    charts = _charts(tmp_path / "two", tmp_path / "b.html")
    assert {"g1-pro", "g1-budget-auroc", "g1-m2-losses", "g1-m2-metrics"} <= set(charts)


@pytest.mark.usefixtures("plain")
def test_wrong_predictions(tmp_path: Path, sample_dir: Path) -> None:
    run = make_run(tmp_path / "probe", sample_dir)
    wrong = run.record["split"]["test"][:1]
    make_run(tmp_path / "runs", sample_dir, wrong=wrong, outputs=["classes"])
    gallery = json.loads(written(tmp_path / "runs", tmp_path / "a.html").scripts["gallery-data"])
    for item in gallery["groups"][0]["items"]:
        (prediction,) = item["predictions"]
        assert (prediction["flagged"] != item["defect"]) == (item["id"] in wrong)
        assert prediction["pred_class"][0] == (item["type"] if prediction["flagged"] else "good")


def test_the_plots_need_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    page.vega_script.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtraError, match=r"vl-convert-python.*\[report\]"):
        page.vega_script()
