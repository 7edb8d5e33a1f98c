"""The line's fixtures."""

from tests.line.conftest import card, grey_run, level, make_station, messages, model, named

__all__ = ["card", "grey_run", "level", "make_station", "messages", "model", "named"]
