"""A headless Chromium, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a running browser; skip the test with the reason where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the PyPI package playwright is not installed"
    )
    named = os.environ.get("TOOLKIT_CHROMIUM")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium found; install the Debian package chromium")
    with playwright.sync_playwright() as driver:
        # Its own sandbox cannot be set up by root, as in many containers.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page opened from disk, and all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        context = browser.new_context(offline=True, reduced_motion="reduce", **options)
        self.page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def scroll_through(self) -> None:
        """Go down the page once, so that everything is drawn; then back to the top."""
        height = self.page.evaluate("document.body.scrollHeight")
        for y in range(0, height, 500):
            self.page.evaluate(f"window.scrollTo(0, {y})")
            self.page.wait_for_timeout(40)
        self.page.wait_for_function(
            "[...document.querySelectorAll('[data-chart]')].every((e) => e.dataset.drawn)"
        )
        self.page.evaluate("window.scrollTo(0, 0)")

    def texts(self, selector: str) -> list[str]:
        """Return the text of all elements."""
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]
