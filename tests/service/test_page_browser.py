"""The page in a real browser: drop, camera, overlay, keyboard, feedback, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.line.conftest import png
from tests.reporting.browser import TIMEOUT, chromium, until
from toolkit.line.station import Station
from toolkit.service.app import ServiceOptions, make_app
from toolkit.service.server import open_socket, serving

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-some-length"
SIZE = {"width": 1100, "height": 900}
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(*FAKE_CAMERA) as started:
        yield started


@pytest.fixture
def opened(
    browser: Any,
    make_station: Callable[..., Station],
    request: pytest.FixtureRequest,
) -> Iterator[Any]:
    """The page of a line, and whatever its console has printed."""
    options = getattr(request, "param", {})
    station, place = make_station(), open_socket("127.0.0.1", 0)
    app = make_app(station, ServiceOptions(**options), closing=False)
    messages: list[str] = []
    with serving(app, place, seconds=1):
        context = browser.new_context(
            permissions=["camera"], viewport={"width": 1100, "height": 900}
        )
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda m: messages.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.goto(f"http://127.0.0.1:{place.getsockname()[1]}/")
        page.wait_for_selector("#state.up, #state.down")
        yield page
        context.close()
    if not options:
        # A refused image is logged by the browser itself.
        assert [m for m in messages if "status of 422" not in m] == []


def drop(page: Any, data: bytes, name: str = "part.png") -> None:
    """Drop a file on the stage."""
    transfer = page.evaluate_handle(
        """([text, name]) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            return transfer;
        }""",
        [base64.b64encode(data).decode(), name],
    )
    page.dispatch_event("#stage", "drop", {"dataTransfer": transfer})


def decision(page: Any, wanted: str) -> None:
    page.wait_for_selector(f"#decision.{wanted}")
    assert page.inner_text("#decision") == wanted


def source(page: Any) -> str:
    return str(page.get_attribute("#shown", "src"))


def test_a_dropped_image_and_its_overlay(opened: Any, level: float) -> None:
    drop(opened, png(level + 40))
    decision(opened, "NOK")
    until(opened, "document.querySelector('#shown').src.startsWith('data:')")
    assert opened.evaluate("document.querySelector('#shown').naturalWidth") == 24
    opened.keyboard.press("v")
    assert source(opened).startswith("blob:")
    opened.keyboard.press("v")
    assert source(opened).startswith("data:image/jpeg")
    assert float(opened.inner_text("#score")) == pytest.approx(40, abs=0.2)
    opened.wait_for_selector("#recent button .NOK, #recent small.NOK")
    drop(opened, png(level))
    decision(opened, "OK")
    drop(opened, b"no image at all")
    decision(opened, "NOK")
    assert "unreadable" in opened.inner_text("#reason")


def test_the_camera_and_the_keyboard(opened: Any) -> None:
    opened.keyboard.press("c")
    opened.wait_for_selector("#video:not([hidden])")
    until(opened, "document.querySelector('#video').videoWidth > 0")
    opened.keyboard.press(" ")
    opened.wait_for_selector("#decision:not(:empty)")
    opened.wait_for_selector("#shown:not([hidden])")
    opened.keyboard.press("d")
    until(opened, "document.querySelector('#thanks').textContent !== ''")
    assert opened.inner_text("#thanks") == "recorded"
    opened.keyboard.press(" ")  # back to the moving picture
    opened.wait_for_selector("#video:not([hidden])")
    opened.keyboard.press("c")
    opened.wait_for_selector("#hint:not([hidden])")


def test_the_last_images_can_be_overruled(opened: Any, level: float) -> None:
    drop(opened, png(level + 40), "<img src=x onerror=alert(1)>.png")
    decision(opened, "NOK")
    until(opened, "document.querySelectorAll('#recent img[src^=blob]').length === 1")
    opened.click("#recent button")
    opened.click("#good")
    until(opened, "document.querySelector('#thanks').textContent === 'recorded'")
    until(opened, "document.querySelector('#overruled').textContent === '1 of 1'")
    assert opened.locator("#recent img").count() == 1


@pytest.mark.parametrize("opened", [{"token": TOKEN}], indirect=True)
def test_the_token_is_asked_for(opened: Any, level: float) -> None:
    opened.fill("#token", "wrong-wrong-wrong-wrong")
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#login:not([hidden])")
    opened.fill("#token", TOKEN)
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#state.up")
    drop(opened, png(level))
    decision(opened, "OK")


@pytest.mark.parametrize("opened", [{"predict": False}], indirect=True)
def test_the_live_page_of_a_watched_folder(opened: Any) -> None:
    opened.wait_for_selector("main.watching")
    assert not opened.is_visible("#tools")
    assert opened.is_visible("#figures")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 380])
def test_nothing_is_cut_off_and_all_can_be_read(
    opened: Any,
    level: float,
    scheme: str,
    width: int,
    tmp_path: Path,
) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    drop(opened, png(level + 40))
    decision(opened, "NOK")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("#decision", "#state", ".quiet", "button"):
        ratio = opened.evaluate(CONTRAST, name)
        assert ratio >= 4.5, (name, ratio)


CONTRAST = """(selector) => {
    const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((v) => {
            const c = v / 255;
            return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const node = document.querySelector(selector);
    const back = (one) => getComputedStyle(one).backgroundColor;
    let under = node;
    while (back(under) === "rgba(0, 0, 0, 0)") under = under.parentElement;
    const pair = [light(getComputedStyle(node).color), light(back(under))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
