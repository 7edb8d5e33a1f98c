"""The line's fixtures."""

from tests.line.conftest import card, grey_run, level, make_station, model, named, said

__all__ = ["card", "grey_run", "level", "make_station", "model", "named", "said"]
