"""Load another model while one is in use, judge it, and let it take over."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError
from toolkit.line.answers import NamedModel
from toolkit.line.compare import compare
from toolkit.line.station import Station


class ModelDesk:
    """Swaps the model of a line, one at a time.

    Args:
        station: the line.
        folder: of the runs that may be loaded; None for none.
        frozen: labelled images by which a new model is judged; None: nothing is swapped.
    """

    def __init__(self, station: Station, folder: Path | None, frozen: Path | None) -> None:
        self._station, self._frozen = station, frozen
        self._folder = None if folder is None else folder.resolve()
        self._lock = threading.Lock()

    def load(
        self, run: str, calibration: str | None, engine: str | None, *, shadow: bool
    ) -> dict[str, Any]:
        """Load a run and let it take over if it loses nothing, or run in the shadow.

        Returns:
            `accepted`, `model` and, of a judged model, `comparison`.

        Raises:
            ConfigError: no such folder, or a path that leaves it; another swap is going on.
            ToolkitError: the run cannot be loaded.
        """
        path = self._inside(run)
        card = None if calibration is None else self._inside(calibration)
        if not self._lock.acquire(blocking=False):
            raise ConfigError("another model is being loaded; try again later")
        try:
            new = NamedModel.load(path, calibration=card, engine=engine)
            if shadow:
                self._station.worker.shadow = new
                self._station.say(f"shadow model {new.name}")
                return {"accepted": True, "model": new.name}
            if self._frozen is None:
                raise ConfigError("nothing to judge the new model by; start with --frozen FOLDER")
            folders = (self._frozen, self._station.state / "labelled")
            found = compare(self._station.worker.live.model, new.model, folders)
            if found.accepted:
                self._station.swap(new)
            verdict = "swapped to" if found.accepted else "refused"
            self._station.say(f"{verdict} {new.name}: {found.text()}")
            return {"accepted": found.accepted, "model": new.name, "comparison": found.text()}
        finally:
            self._lock.release()

    def end_shadow(self) -> dict[str, Any]:
        """End the shadow mode; return the number of differences in the ledger."""
        self._station.worker.shadow = None
        return {"differences": len(self._station.ledger.differences())}

    def _inside(self, name: str) -> Path:
        if self._folder is None:
            raise ConfigError("no runs may be loaded; start with --models FOLDER")
        path = (self._folder / name).resolve() if "\0" not in name else Path("/")
        if self._folder not in path.parents or not path.exists():
            raise ConfigError("no such run or card below the folder of --models")
        return path
