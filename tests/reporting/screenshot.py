"""Draw docs/images/report.png: `PYTHONPATH=. python tests/reporting/screenshot.py [FILE]`.

The page shows made-up predictions on the synthetic sample.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.reporting.browser import Opened, chromium
from tests.reporting.fake_runs import make_run
from toolkit.data.layouts import load_dataset
from toolkit.data.synthetic import make_sample
from toolkit.reporting.write import report

DEFAULT = Path("docs/images/report.png")


def make_page(folder: Path) -> Path:
    """Write a report of four methods on the synthetic sample."""
    dataset = load_dataset(
        make_sample(folder / "sample", seed=1, size=256, train_good=12, test_good=12, per_defect=9)
    )
    probe = make_run(folder / "probe", dataset, fold=0)
    tested: list[str] = probe.record["split"]["test"]
    methods: dict[str, tuple[list[str], list[str]]] = {
        "method A": (["map"], []),
        "method B": (["mask", "map"], tested[3:4]),
        "method C": (["boxes"], tested[1:5]),
        "method D": (["classes"], tested[::2]),
    }
    for seed, (name, (outputs, wrong)) in enumerate(methods.items()):
        make_run(folder / "runs", dataset, entry=name, outputs=outputs, wrong=wrong, seed=seed)
    return report(folder / "runs", folder / "report.html")


def screenshot(
    page_file: Path, out: Path, *, scheme: str = "light", width: int = 1280, height: int = 1500,
    start: str = "", dialog: bool = False,
) -> None:  # fmt: skip
    """Take a picture of the page, from the element `start` on."""
    with chromium() as browser:
        options: dict[str, Any] = {"viewport": {"width": width, "height": height}}
        opened = Opened(browser, page_file, color_scheme=scheme, **options)
        opened.scroll_through()
        if start:
            opened.page.evaluate(f"document.querySelector('{start}').scrollIntoView()")
        if dialog:
            opened.page.locator(".card .open").nth(1).click()
        opened.page.screenshot(path=str(out))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        target = Path(sys.argv[1]) if sys.argv[1:] else DEFAULT
        screenshot(make_page(Path(name)), target, height=900)
