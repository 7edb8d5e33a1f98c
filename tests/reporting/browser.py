"""A headless Chromium, where there is one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Time that one expectation may take on a busy machine, in ms.
TIMEOUT = 30_000
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """Give a running browser; skip the test with the reason where there is none.

    Args:
        arguments: of its command line.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the PyPI package playwright is not installed"
    )
    named = os.environ.get("TOOLKIT_CHROMIUM")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium found; install the Debian package chromium")
    with playwright.sync_playwright() as driver:
        # Its own sandbox cannot be set up by root, as in many containers.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()


def until(page: Any, condition: str, argument: Any = None) -> None:
    """Wait for a condition in JavaScript.

    Playwright's own way of waiting evaluates a string again and again, which the policy of our
    pages forbids.
    """
    end = time.monotonic() + TIMEOUT / 1000
    while not page.evaluate(condition, argument):
        assert time.monotonic() < end, f"did not happen in time: {condition}"
        time.sleep(0.02)


class Opened:
    """A page opened from disk, its console messages and its requests."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(offline=True, reduced_motion="reduce", **options)
        self.page = context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("console", lambda m: self.messages.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def scroll_through(self) -> None:
        """Scroll to each plot and card until it is drawn; then back to the top.

        Cards above that are drawn meanwhile push a place away again, so one scroll is not enough.
        """
        for place in self.page.locator("[data-chart], .card").element_handles():
            place.evaluate("(e) => e.scrollIntoView({ behavior: 'instant' })")
            until(
                self.page,
                "(e) => { const drawn = () => e.dataset.drawn || e.querySelector('.pane');"
                " if (!drawn()) e.scrollIntoView({ behavior: 'instant' }); return drawn(); }",
                place,
            )
        until(self.page, "[...document.querySelectorAll('.stack img')].every((i) => i.complete)")
        self.page.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")

    def texts(self, selector: str) -> list[str]:
        """Return the text of all elements."""
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]
