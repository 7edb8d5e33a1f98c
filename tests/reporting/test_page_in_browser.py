"""The page in a real browser: it draws, sorts, filters, steps, and asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.browser import Opened, chromium
from tests.reporting.made import make_run
from toolkit.data.layouts import read_dataset
from toolkit.reporting.write import write_report

pytest.importorskip("vl_convert", reason="the PyPI package vl-convert-python is not installed")
pytestmark = pytest.mark.slow

EVIL = "</script><img src=x onerror=alert(1)>&amp;<!--'\""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, sample_dir: Path) -> Path:
    """Three methods with all kinds of answers, one of them wrong twice; budgets; hostile names."""
    folder = tmp_path_factory.mktemp("report")
    runs, dataset = folder / "runs", read_dataset(sample_dir)
    first = make_run(runs, dataset, entry="maps", gives=["map", "classes"], epochs=3)
    tested = [dataset.by_id[name] for name in first.record["split"]["test"]]
    wrong = [
        next(s.id for s in tested if s.is_defect),
        next(s.id for s in tested if not s.is_defect),
    ]
    make_run(runs, dataset, entry="boxes", gives=["boxes", "mask"], wrong=wrong, seed=3,
             facts={"budget": 1, "base_entry": "boxes"})  # fmt: skip
    make_run(runs, dataset, entry=EVIL, seed=2,
             facts={"weights": EVIL, "score_description": EVIL, "budget": "all",
                    "base_entry": "boxes"})  # fmt: skip
    write_report([runs], folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    page = Opened(browser, report, viewport={"width": 1280, "height": 900})
    yield page
    assert page.said == []
    # Pictures are taken out of the page itself.
    assert {url.split(":")[0] for url in page.asked[1:]} <= {"blob", "data"}
    assert page.asked[0] == report.as_uri()
    page.page.context.close()


def test_everything_is_drawn(opened: Opened) -> None:
    opened.scroll_through()
    charts = opened.page.locator("[data-chart]").count()
    assert opened.page.locator("[data-chart] svg.marks").count() == charts >= 2 + 3 + 2 + 1
    assert opened.page.locator(".card .stack > img:first-child").count() > 0
    # A picture that could not be decoded has no width.
    assert opened.page.evaluate(
        "[...document.querySelectorAll('.stack img')].every((i) => i.naturalWidth > 0)"
    )
    alts = opened.page.evaluate(
        "[...document.querySelectorAll('.stack > img:first-child')].map((i) => i.alt)"
    )
    assert all(alts)
    assert any("maps on test/" in alt and "heat map" in alt for alt in alts)


def test_names_are_text(opened: Opened) -> None:
    opened.scroll_through()
    assert EVIL in opened.texts(".board tbody th")
    assert opened.page.locator("img[src=x]").count() == 0
    # What the name says is also drawn in plots and cards.
    assert EVIL in opened.page.locator(".pane figcaption b").all_inner_texts()


@pytest.mark.parametrize("press", ["click", "key"])
def test_sorting(opened: Opened, press: str) -> None:
    head = opened.page.locator(".board thead th").filter(has_text="acc").first
    button = head.locator("button")

    def go() -> None:
        if press == "click":
            button.click()
        else:
            button.focus()
            opened.page.keyboard.press("Enter")

    def shown() -> list[str]:
        column = head.evaluate("(e) => e.cellIndex")
        return opened.texts(f".board:first-of-type tbody tr > :nth-child({column + 1})")[:3]

    go()
    assert head.get_attribute("aria-sort") == "descending"
    assert shown() == sorted(shown(), reverse=True)
    assert len(set(shown())) > 1
    falling = shown()
    go()
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown() == falling[::-1] or shown() == sorted(falling)
    assert opened.page.locator('.board:first-of-type [aria-sort="ascending"]').count() == 1


def test_what_is_missing_stands_last(opened: Opened) -> None:
    button = opened.page.locator(".board thead button").filter(has_text="AUPRO").first
    column = button.evaluate("(e) => e.closest('th').cellIndex")
    for _ in range(2):
        button.click()
        cells = opened.texts(f".board:first-of-type tbody tr > :nth-child({column + 1})")[:3]
        assert [cell.startswith("–") for cell in cells] == [False, True, True]


def test_filters(opened: Opened) -> None:
    page = opened.page
    total = page.locator(".card").count()
    page.get_by_label("wrong only").check()
    assert page.locator(".card").count() == 2
    assert opened.texts(".card .sum") == ["1 of 3 wrong"] * 2
    assert opened.texts(".count") == [f"2 of {total} images"]
    page.locator('[name="method"][value="0"]').scroll_into_view_if_needed()
    names = opened.texts(".gallery fieldset label")
    page.locator(f'[name="method"][value="{names.index("boxes")}"]').uncheck()
    assert page.locator(".card").count() == 0
    assert page.locator(".nothing").is_visible()
    page.get_by_label("wrong only").uncheck()
    assert page.locator(".card").count() == total
    page.locator(".card").first.locator(".pane").nth(2).wait_for()
    assert page.locator(".card").first.locator(".pane").count() == 3  # truth and two methods
    kind = page.locator('[name="type"] option').nth(2).inner_text()
    page.locator('[name="type"]').select_option(kind)
    assert set(opened.texts(".card .type")) == {kind}


def test_order(opened: Opened) -> None:
    page = opened.page

    def scores() -> list[float]:
        page.locator(".gallery").scroll_into_view_if_needed()
        opened.scroll_through()
        found = page.locator(".card .pane:nth-child(2) figcaption").all_inner_texts()
        return [float(text.split("\n")[1].split()[0]) for text in found]

    page.locator('[name="sort"]').select_option("high 0")
    assert scores() == sorted(scores(), reverse=True)
    page.locator('[name="sort"]').select_option("low 0")
    assert scores() == sorted(scores())


def test_keys_step(opened: Opened) -> None:
    page = opened.page
    ids = opened.texts(".card .id")
    focused = "document.activeElement.querySelector('.id').textContent"
    page.keyboard.press("j")
    assert page.evaluate(focused) == ids[0]
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(focused) == ids[1]
    page.keyboard.press("Enter")
    title, place = page.locator("#viewer-title"), page.locator("#viewer .place")
    assert title.inner_text().startswith(ids[1])
    assert "Esc close" in " ".join(page.locator("#viewer .hint").inner_text().split())
    page.keyboard.press("ArrowRight")
    assert title.inner_text().startswith(ids[2])
    page.keyboard.press("End")
    assert place.inner_text() == f"{len(ids)} of {len(ids)}"
    page.keyboard.press("ArrowRight")  # the last is the last
    assert title.inner_text().startswith(ids[-1])
    page.keyboard.press("ArrowLeft")
    assert title.inner_text().startswith(ids[-2])
    method = page.locator("#viewer-method")
    before = method.input_value()
    page.keyboard.press("ArrowDown")
    assert method.input_value() != before
    page.keyboard.press("ArrowUp")
    assert method.input_value() == before
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # One goes on where one was; the dialog tells of its end a moment later.
    page.wait_for_function(f"(id) => {focused} === id", arg=ids[-2])


def test_next_wrong(opened: Opened) -> None:
    page = opened.page
    page.locator(".card .open").first.click()
    page.locator("#viewer-method").select_option(label="boxes")
    page.locator("#viewer-title").click()
    for _ in range(2):
        page.keyboard.press("w")
        assert page.locator("#viewer .pane.wrong").count() == 1
        assert page.locator("#viewer .verdict.wrong").count() >= 1


def test_layers(opened: Opened) -> None:
    page = opened.page
    page.locator(".card .open").first.click()
    truth = page.locator("#viewer .truth-layer").first
    assert truth.is_visible()
    page.keyboard.press("t")
    assert not truth.is_visible()
    button = page.locator('#viewer [data-layer="truth"]')
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert truth.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(browser: Any, report: Path, scheme: str) -> None:
    opened = Opened(browser, report, color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert opened.page.evaluate("document.documentElement.dataset.theme") == scheme
    opened.page.locator("[data-drawn]").first.wait_for()
    before = opened.page.evaluate(paper)
    opened.page.locator("#theme").click()
    other = "dark" if scheme == "light" else "light"
    assert opened.page.evaluate("document.documentElement.dataset.theme") == other
    assert opened.page.evaluate(paper) != before
    opened.page.locator(f'[data-drawn="{other}"]').first.wait_for()
    opened.page.reload()
    assert opened.page.evaluate("document.documentElement.dataset.theme") == other  # remembered
    assert opened.said == []
    opened.page.context.close()


@pytest.mark.parametrize("width", [1280, 800, 420])
def test_the_page_never_scrolls_sideways(browser: Any, report: Path, width: int) -> None:
    opened = Opened(browser, report, viewport={"width": width, "height": 900})
    opened.scroll_through()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.context.close()


def test_what_assistive_technology_reads(opened: Opened) -> None:
    page = opened.page
    opened.scroll_through()
    assert page.evaluate(
        "[...document.querySelectorAll('thead th, tbody th')].every((e) => e.scope)"
    )
    assert page.evaluate(
        "[...document.querySelectorAll('.board thead th')]"
        ".every((e) => e.ariaSort && e.querySelector('button'))"
    )
    # Every plot says what it shows.
    assert page.evaluate("[...document.querySelectorAll('[data-chart]')].every((e) => e.ariaLabel)")
    assert page.evaluate(
        "[...document.querySelectorAll('input, select')].every((e) => e.labels.length > 0)"
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    own = [one for one in ids if not one.startswith("vg-")]
    assert len(own) == len(set(own))
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
