"""Progress: plain lines where there is no terminal, nothing when silent, a bar on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

import toolkit.progress
from toolkit.progress import naming, progress, share_terminal, track


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(toolkit.progress.time, "monotonic", made.monotonic)
    return made


def test_items_pass_unchanged_and_late(capsys: pytest.CaptureFixture[str]) -> None:
    taken = []

    def source() -> object:
        for i in range(3):
            taken.append(i)
            yield i

    tracked = track(source(), "work")  # type: ignore[arg-type]
    assert taken == []
    assert next(tracked) == 0
    assert taken == [0]
    assert list(tracked) == [1, 2]
    assert capsys.readouterr().out == ""  # standard output stays clean


def test_short_work_is_one_line_at_its_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in track([1, 2, 3], "work"):
        clock.now += 1
    assert capsys.readouterr().err == "work: 3/3  3 s\n"


def test_long_work_tells_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("train", 6) as bar:
        for i in range(6):
            clock.now += 6
            bar.advance(loss=0.123456, part=f"[{i}]")
    assert capsys.readouterr().err.splitlines() == [
        "train: 2/6  24 s left  loss 0.1235  part [1]",
        "train: 4/6  12 s left  loss 0.1235  part [3]",
        "train: 6/6  36 s  loss 0.1235  part [5]",
    ]


def test_parts_of_steps_reach_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("load", 1.0) as bar:
        for _ in range(10):
            bar.advance(0.1)  # ten times a tenth is less than one
    assert capsys.readouterr().err == "load: 100 %  0 s\n"


def test_time_left_is_right_when_steps_differ_in_cost(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = [1.0] * 10 + [4.0] * 10  # seconds
    with progress("train", sum(costs)) as bar:
        for cost in costs:
            clock.now += cost
            bar.advance(cost)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 20 %  40 s left"
    assert lines[1] == "train: 44 %  28 s left"
    assert lines[-1] == "train: 100 %  50 s"


def test_what_was_done_before_takes_no_time(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("train", 100) as bar:
        bar.skip(90)
        clock.now += 10
        bar.advance(5)
    assert capsys.readouterr().err == "train: 95/100  10 s left\n"


def test_unknown_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("read") as bar:
        for _ in range(3):
            clock.now += 6
            bar.advance()
    assert capsys.readouterr().err == "read: 2\n"


def test_no_items_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([], "work")) == []
    assert capsys.readouterr().err == ""


def test_silence(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "work", show=False)) == [1, 2]
    with progress("work", 1, show=False) as bar:
        bar.advance(loss=1.0)
    assert capsys.readouterr().err == ""


def test_an_error_passes(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for _ in track([1, 2], "work"):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        work()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("[1/5] fit", 2) as bar:
        bar.advance(loss=0.5, part="[a]")
        bar.advance()
    shown = terminal.getvalue()
    # Brackets are text here, not markup.
    for words in ("[1/5] fit", "2/2", "loss 0.5", "[a]"):
        assert words in shown


def test_a_terminal_shows_the_time_left_by_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("rich.progress.Task.elapsed", 10.0)
    with progress("fit", 5.0) as bar:
        bar.advance(1.0)
    assert "20 %" in terminal.getvalue()
    assert "0:00:40 left" in terminal.getvalue()


def test_where_processes_share_a_terminal_lines_are_plain_and_name_their_work(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit.progress, "_shared", False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    share_terminal()
    with naming("a-fold0"):
        for _ in track([1], "fit"):
            clock.now += 1
    for _ in track([1], "fit"):
        clock.now += 1
    assert capsys.readouterr().err == "a-fold0: fit: 1/1  1 s\nfit: 1/1  1 s\n"


def test_alone_on_a_terminal_the_work_needs_no_name(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with naming("a-fold0"):
        for _ in track([1], "fit"):
            clock.now += 1
    assert capsys.readouterr().err == "fit: 1/1  1 s\n"
