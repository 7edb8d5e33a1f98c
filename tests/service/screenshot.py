"""Draw the page of a line: `PYTHONPATH=. python tests/service/screenshot.py RUN IMAGES FILE`.

Images are answered by the run; the last one is dropped on the page. `--dark` and `--width` as they
say.
"""

from __future__ import annotations

import argparse
import tempfile
from hashlib import sha256
from pathlib import Path

from tests.reporting.browser import chromium, until
from tests.service.test_page_browser import drop
from toolkit.data.images import is_image_file
from toolkit.inference.model import load_model
from toolkit.line.answers import NamedModel
from toolkit.line.station import Station
from toolkit.service.app import ServiceOptions, make_app
from toolkit.service.server import open_socket, serving


def main() -> None:
    """Draw the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("images", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--calibration")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=950)
    options = parser.parse_args()
    model = load_model(options.run, calibration=options.calibration)
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        station, place = Station(NamedModel.of(model), Path(name)), open_socket("127.0.0.1", 0)
        images = sorted(path for path in options.images.rglob("*") if is_image_file(path))
        for image in images[:: max(1, len(images) // 12)]:
            data, title = image.read_bytes(), f"{image.parent.name}/{image.name}"
            answer = station.answer(data, title)
            digest = sha256(data).hexdigest()
            station.record(answer, image=title, data=data, sha256=digest)
        with serving(make_app(station, ServiceOptions()), place, seconds=1):
            page = browser.new_context(
                viewport={"width": options.width, "height": options.height},
                color_scheme="dark" if options.dark else "light",
            ).new_page()
            page.goto(f"http://127.0.0.1:{place.getsockname()[1]}/")
            drop(page, images[0].read_bytes(), images[0].name)
            until(page, "document.querySelector('#shown').src.startsWith('data:')")
            until(page, "document.querySelectorAll('#recent img[src]').length > 5")
            page.screenshot(path=str(options.file), full_page=options.width < 600)


if __name__ == "__main__":
    main()
