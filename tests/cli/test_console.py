"""Progress: lines that do not flood a log, bars that do not break, silence when asked for."""

import io
import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from edgekd.cli import console
from edgekd.cli.console import LiveProgress, PlainProgress, progress
from edgekd.core.events import Event, silent


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def plain():
    stream, clock = io.StringIO(), Clock()
    return PlainProgress(stream, clock=clock), stream, clock


def test_plain_progress_shows_start_and_end_with_seconds(plain):
    show, stream, clock = plain
    show(Event("start", "student/seed0", "20 epochs"))
    clock.now_s += 12.34
    show(Event("end", "student/seed0", values={"accuracy": 0.91234}))
    assert stream.getvalue() == "student/seed0: start, 20 epochs\nstudent/seed0: done, accuracy 0.9123, 12.3 s\n"


def test_plain_progress_is_limited_to_a_line_every_five_seconds_per_stage(plain):
    show, stream, clock = plain
    for stage in ("a", "b"):
        show(Event("start", stage))
    for step in range(1, 49):
        clock.now_s += 0.25
        for stage in ("a", "b"):
            show(Event("progress", stage, done=step, total=48))
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if line.startswith("a: ")] == [
        "a: start",
        "a: 20/48, 5.0 s, about 7 s left",
        "a: 40/48, 10.0 s, about 2 s left",
    ]
    assert len(lines) == 6


def test_plain_progress_without_start_or_total_shows_the_first_event(plain):
    show, stream, _ = plain
    show(Event("progress", "a", "reading", done=7))
    show(Event("progress", "a", "reading", done=8))
    assert stream.getvalue() == "a: 7, reading\n"


def test_plain_notes_are_always_shown(plain):
    show, stream, _ = plain
    show(Event("note", "a", "one"))
    show(Event("note", "a", "two"))
    assert stream.getvalue() == "a: one\na: two\n"


def test_quiet_is_the_silent_listener():
    with progress(is_quiet=True, stream=io.StringIO()) as listen:
        assert listen is silent


def test_stream_that_is_no_terminal_gets_plain_lines():
    stream = io.StringIO()
    with progress(stream=stream) as listen:
        assert isinstance(listen, PlainProgress)
        listen(Event("note", "s", "hello"))
    assert stream.getvalue() == "s: hello\n"


def test_progress_goes_to_stderr_by_default(capsys):
    with progress() as listen:
        listen(Event("note", "s", "hello"))
    assert capsys.readouterr() == ("", "s: hello\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_progress_survives_markup_unknown_totals_and_ends_without_start(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with progress(stream=terminal) as listen:
        assert isinstance(listen, LiveProgress)
        listen(Event("start", "[/a]", "[/b]"))
        listen(Event("progress", "[/a]", "[/b]", done=3))
        listen(Event("note", "n", "[/red] note"))
        listen(Event("end", "[/a]", "[/c]", values={"loss": 0.25}))
        listen(Event("end", "never started"))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "n: [/red] note" in shown
    assert re.search(r"\[/a\]: done, \[/c\], loss 0.25, \d+\.\d s", shown)
    assert "never started: done" in shown


def test_live_progress_says_what_is_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    times = iter((100.0, 110.0))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(times)))
    terminal = Terminal()
    with progress(stream=terminal) as listen:
        listen(Event("start", "train", total=4))
        listen(Event("progress", "train", "loss 1.0", done=1, total=4))
        listen(Event("progress", "train", "loss 0.5", done=2, total=4))
    assert "about 20 s left, loss 0.5" in terminal.getvalue()


SCRIPT = """
from edgekd.cli.console import progress
from edgekd.core.events import Event
with progress() as listen:
    listen(Event("start", "train", total=4))
    for step in range(1, 5):
        listen(Event("progress", "train", done=step, total=4))
    print("a library prints")
    listen(Event("end", "train"))
"""


def test_real_terminal_shows_a_bar_and_leaves_a_line():
    main, side = pty.openpty()
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(command, stderr=side, stdout=subprocess.PIPE, env=environment, timeout=60, check=True)
    os.close(side)
    shown = os.read(main, 100_000).decode()
    os.close(main)
    assert "\x1b[?25l" in shown
    assert re.search(r"train: done, 0\.\d s", shown)
    assert "a library prints" in shown
