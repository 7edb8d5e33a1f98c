"""The page in a real browser: it draws, sorts, filters, steps, and requests nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.browser import TIMEOUT, Opened, chromium, until
from tests.reporting.fake_runs import make_run
from toolkit.data.layouts import load_dataset
from toolkit.reporting.write import report

pytest.importorskip("vl_convert", reason="the PyPI package vl-convert-python is not installed")
pytestmark = pytest.mark.slow

EVIL = "</script><img src=x onerror=alert(1)>&amp;<!--'\"\n\x1b[31m\u202eabc"
DISPLAYED = "</script><img src=x onerror=alert(1)>&amp;<!--'\"\\n\\x1b[31m\\u202eabc"


def expect(locator: Any) -> Any:
    """Wait for a state of the page; without playwright the tests are skipped before."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=TIMEOUT)
    return sync_api.expect(locator)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory, sample_dir: Path) -> Path:
    """Three methods with all kinds of predictions, one wrong twice; budgets; hostile names."""
    folder = tmp_path_factory.mktemp("report")
    runs, dataset = folder / "runs", load_dataset(sample_dir)
    first = make_run(runs, dataset, entry="maps", outputs=["map", "classes"], epochs=3)
    tested = [dataset.by_id[name] for name in first.record["split"]["test"]]
    wrong = [
        next(s.id for s in tested if s.is_defect),
        next(s.id for s in tested if not s.is_defect),
    ]
    make_run(runs, dataset, entry="boxes", outputs=["boxes", "mask"], wrong=wrong, seed=3,
             metadata={"budget": 1, "base_entry": "boxes"})  # fmt: skip
    make_run(runs, dataset, entry=EVIL, seed=2,
             metadata={"weights": EVIL, "score_description": EVIL, "budget": "all",
                    "base_entry": "boxes"})  # fmt: skip
    report([runs], folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser: Any, report_file: Path) -> Iterator[Opened]:
    page = Opened(browser, report_file, viewport={"width": 1280, "height": 900})
    yield page
    assert page.messages == []
    # Images are part of the page.
    assert {url.split(":")[0] for url in page.requests[1:]} <= {"blob", "data"}
    assert page.requests[0] == report_file.as_uri()
    page.page.context.close()


def test_everything_is_drawn(opened: Opened) -> None:
    opened.scroll_through()
    charts = opened.page.locator("[data-chart]").count()
    assert opened.page.locator("[data-chart] svg.marks").count() == charts >= 2 + 3 + 2 + 1
    assert opened.page.locator(".card .stack > img:first-child").count() > 0
    # An image that cannot be decoded has no width.
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
    assert DISPLAYED in opened.texts(".board tbody th")
    assert opened.page.locator("img[src=x]").count() == 0
    assert DISPLAYED in opened.page.locator(".pane figcaption b").all_inner_texts()
    # Vega shortens long names in legends.
    legends = opened.page.locator("[data-chart] .role-legend-label text").all_text_contents()
    assert any(text.startswith("</script><img") for text in legends)
    whole = opened.page.evaluate("document.body.innerText")
    assert not {"\x1b", "\u202e"} & set(whole)


@pytest.mark.parametrize(
    "attack",
    [
        "const s = document.createElement('script'); s.textContent = 'window.hit = 1';"
        " document.body.append(s)",
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"hit = 1\">')",
        "document.body.insertAdjacentHTML('beforeend',"
        " '<iframe src=\"javascript:parent.hit = 1\"></iframe>')",
        "fetch('https://example.com/').catch(() => 0)",
    ],
)
def test_the_policy_blocks_other_scripts_and_connections(
    browser: Any, report_file: Path, attack: str
) -> None:
    opened = Opened(browser, report_file)
    opened.page.evaluate(
        "window.blocked = [];"
        "document.addEventListener('securitypolicyviolation',"
        " (e) => window.blocked.push(e.effectiveDirective))"
    )
    opened.page.evaluate(f"() => {{ {attack} }}")
    until(opened.page, "window.blocked.length > 0")
    assert opened.page.evaluate("window.hit") is None
    assert not [url for url in opened.requests if url.startswith("http")]
    opened.page.context.close()


@pytest.mark.parametrize("press", ["click", "key"])
def test_sorting(opened: Opened, press: str) -> None:
    head = opened.page.locator(".board thead th").filter(has_text="F1").first
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
    expect(head).to_have_attribute("aria-sort", "descending")
    assert shown() == sorted(shown(), reverse=True)
    assert len(set(shown())) > 1
    falling = shown()
    go()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert shown() == falling[::-1] or shown() == sorted(falling)
    assert opened.page.locator('.board:first-of-type [aria-sort="ascending"]').count() == 1


def test_another_order_has_other_ranks_and_no_top_group(opened: Opened) -> None:
    page = opened.page
    board = page.locator(".board.ranked")
    ranks = board.locator("tbody .rank")
    row = board.locator(".top-group > .rank").first
    weight = "(e) => getComputedStyle(e).fontWeight"
    original = opened.texts(".board.ranked tbody .rank")
    assert original == sorted(original)
    assert page.locator(".top-key").is_visible()
    assert row.evaluate(weight) == "700"
    board.locator("thead button").filter(has_text="F1").click()
    expect(board.locator("thead th").filter(has_text="F1")).to_have_attribute(
        "aria-sort", "descending"
    )
    column = 1 + board.locator("[aria-sort=descending]").evaluate("(e) => e.cellIndex")
    texts = opened.texts(f".board.ranked tbody tr > :nth-child({column})")
    values = [float(text.split()[0]) for text in texts]
    assert values == sorted(values, reverse=True)
    assert [int(t) for t in ranks.all_inner_texts()] == [1 + values.index(v) for v in values]
    assert row.evaluate(weight) == "400"
    board.locator("thead button").filter(has_text="method").click()
    expect(ranks).to_have_text(["–"] * 3)
    board.locator("thead button").filter(has_text="#").click()
    expect(ranks).to_have_text(original)
    assert row.evaluate(weight) == "700"


def test_missing_values_are_last(opened: Opened) -> None:
    button = opened.page.locator(".board thead button").filter(has_text="AUPRO").first
    column = button.evaluate("(e) => e.closest('th').cellIndex")
    for _ in range(2):
        button.click()
        cells = opened.texts(f".board:first-of-type tbody tr > :nth-child({column + 1})")[:3]
        assert [cell.startswith("–") for cell in cells] == [False, True, True]


def test_filters(opened: Opened) -> None:
    opened.scroll_through()
    page = opened.page
    cards = page.locator(".card")
    total = cards.count()
    page.get_by_label("wrong only").check()
    expect(cards).to_have_count(2)
    expect(page.locator(".card .sum")).to_have_text(["1 of 3 wrong"] * 2)
    expect(page.locator(".count")).to_have_text(f"2 of {total} images")
    names = opened.texts(".gallery fieldset label")
    page.locator(f'[name="method"][value="{names.index("boxes")}"]').uncheck()
    expect(cards).to_have_count(0)
    expect(page.locator(".nothing")).to_be_visible()
    page.get_by_label("wrong only").uncheck()
    expect(cards).to_have_count(total)
    cards.first.scroll_into_view_if_needed()
    expect(cards.first.locator(".pane")).to_have_count(3)  # truth and two methods
    kind = page.locator('[name="type"] option').nth(2).inner_text()
    page.locator('[name="type"]').select_option(kind)
    expect(cards).not_to_have_count(total)
    assert set(opened.texts(".card .type")) == {kind}


def test_order(opened: Opened) -> None:
    page = opened.page

    def scores() -> list[float]:
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

    def wait_for_focus(sample_id: str) -> None:
        until(
            page,
            "(id) => { const e = document.activeElement.querySelector('.id');"
            " return e && e.textContent === id; }",
            sample_id,
        )

    page.keyboard.press("j")
    wait_for_focus(ids[0])
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    wait_for_focus(ids[1])
    page.keyboard.press("Enter")
    title, place = page.locator("#viewer-title"), page.locator("#viewer .place")
    starts = [re.compile("^" + re.escape(one)) for one in ids]
    expect(title).to_have_text(starts[1])
    expect(page.locator("#viewer .hint")).to_contain_text("Esc close")
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text(starts[2])
    page.keyboard.press("End")
    expect(place).to_have_text(f"{len(ids)} of {len(ids)}")
    page.keyboard.press("ArrowRight")  # stays at the last image
    expect(title).to_have_text(starts[-1])
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text(starts[-2])
    method = page.locator("#viewer-method")
    before = method.input_value()
    page.keyboard.press("ArrowDown")
    expect(method).not_to_have_value(before)
    page.keyboard.press("ArrowUp")
    expect(method).to_have_value(before)
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    wait_for_focus(ids[-2])


@pytest.mark.parametrize("focus", ["list", "dialog"])
def test_next_wrong(opened: Opened, focus: str) -> None:
    page = opened.page
    open_dialog(opened)
    page.locator("#viewer-method").select_option(label="boxes")
    expect(page.locator("#viewer .stage .pane").nth(1)).to_contain_text("boxes")
    if focus == "dialog":
        page.locator("#viewer-title").click()
    wrong = set()
    for _ in range(2):
        before = page.locator("#viewer-title").inner_text()
        page.keyboard.press("w")
        expect(page.locator("#viewer-title")).not_to_have_text(before)
        expect(page.locator("#viewer .pane.wrong")).to_have_count(1)
        assert page.locator("#viewer .verdict.wrong").count() >= 1
        wrong.add(page.locator("#viewer-title").inner_text())
    assert len(wrong) == 2


def open_dialog(opened: Opened) -> None:
    opened.scroll_through()  # nothing moves once everything is drawn
    page = opened.page
    page.locator(".card .open").nth(1).click()
    expect(page.locator("#viewer")).to_be_visible()


def test_a_click_on_the_backdrop_closes_the_dialog(opened: Opened) -> None:
    page = opened.page
    open_dialog(opened)
    box = page.locator("#viewer").bounding_box()
    page.mouse.click(box["x"] + 5, box["y"] + 5)  # its padding
    expect(page.locator("#viewer")).to_be_visible()
    page.mouse.click(2, 2)
    expect(page.locator("#viewer")).to_be_hidden()


def test_layers(opened: Opened) -> None:
    page = opened.page
    open_dialog(opened)
    truth = page.locator("#viewer .truth-layer").first
    expect(truth).to_be_visible()
    page.keyboard.press("t")
    expect(truth).to_be_hidden()
    button = page.locator('#viewer [data-layer="truth"]')
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(truth).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(browser: Any, report_file: Path, scheme: str) -> None:
    opened = Opened(browser, report_file, color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    theme = opened.page.locator("html")
    expect(theme).to_have_attribute("data-theme", scheme)
    opened.page.locator(f'[data-drawn="{scheme}"]').first.wait_for()
    before = opened.page.evaluate(paper)
    opened.page.locator("#theme").click()
    other = "dark" if scheme == "light" else "light"
    expect(theme).to_have_attribute("data-theme", other)
    assert opened.page.evaluate(paper) != before
    opened.page.locator(f'[data-drawn="{other}"]').first.wait_for()
    opened.page.reload()
    expect(theme).to_have_attribute("data-theme", other)  # remembered
    assert opened.messages == []
    opened.page.context.close()


def test_the_theme_may_change_while_plots_are_drawn(opened: Opened) -> None:
    for _ in range(3):
        opened.page.locator("#theme").click()
    opened.scroll_through()
    theme = opened.page.locator("html").get_attribute("data-theme")
    plots = opened.page.locator("[data-chart]")
    expect(opened.page.locator(f'[data-drawn="{theme}"]')).to_have_count(plots.count())
    assert opened.page.locator("[data-chart] svg.marks").count() == plots.count()


@pytest.mark.parametrize("width", [1280, 800, 420])
def test_the_page_never_scrolls_sideways(browser: Any, report_file: Path, width: int) -> None:
    opened = Opened(browser, report_file, viewport={"width": width, "height": 900})
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
    # Every plot has a description.
    assert page.evaluate("[...document.querySelectorAll('[data-chart]')].every((e) => e.ariaLabel)")
    assert page.evaluate(
        "[...document.querySelectorAll('input, select')].every((e) => e.labels.length > 0)"
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    own = [one for one in ids if not one.startswith("vg-")]
    assert len(own) == len(set(own))
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
