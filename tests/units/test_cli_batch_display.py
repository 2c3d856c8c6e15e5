"""What a terminal shows of a running batch."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from kowalski_gateway.cli import batch_display
from kowalski_gateway.cli.batch_display import Screen, Speed, display, words
from kowalski_gateway.cli.batch_run import Standing
from kowalski_gateway.cli.wording import clock


def test_the_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.per_s is None
    speed.note(0.0, 500)  # found in the file: nobody ran them just now
    assert speed.per_s is None
    for second in range(1, 11):
        speed.note(float(second), 500 + 100 * second)
    assert speed.per_s == pytest.approx(100)
    for second in range(11, 31):
        speed.note(float(second), 1500 + 10 * (second - 10))
    assert speed.per_s == pytest.approx(10)
    for second in range(31, 51):
        speed.note(float(second), 1700)
    assert speed.per_s == 0


def test_many_looks_in_a_short_time_are_few_samples() -> None:
    speed = Speed()
    for number in range(10_000):
        speed.note(number / 1000, number)
    assert speed.per_s == pytest.approx(1000, rel=0.01)
    assert len(speed._samples) < 60


@pytest.mark.parametrize(
    ("standing", "per_s", "said"),
    [
        (Standing(0, 1000, 64, 0), None, "0/1,000 | – tasks/s | 64 under way | – left"),
        (Standing(500, 1000, 64, 0), 0.0, "500/1,000 | 0.0 tasks/s | 64 under way | – left"),
        (
            Standing(500, 1000, 64, 2),
            20.0,
            "500/1,000 | 20 tasks/s | 64 under way | 0:25 left | 2 failed",
        ),
        (Standing(500, 1000, 64, 0, "stopping"), 20.0, "500/1,000 | 64 under way | stopping"),
    ],
)
def test_what_is_said_beside_the_bar(standing: Standing, per_s: float | None, said: str) -> None:
    assert " | ".join(text for text, _ in words(standing, per_s)) == said


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (-1.0, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (0.0, "0:00"),
        (7.4, "0:07"),
        (59.6, "1:00"),
        (750.0, "12:30"),
        (3599.7, "1:00:00"),
        (3723.0, "1:02:03"),
        (1e6, "–"),
    ],
)
def test_a_clock_shows_what_is_left(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


def drawn(width: int, standing: Standing) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    screen = Screen(console)
    screen.update(standing)
    with console.capture() as captured:
        console.print(screen._drawn())
    return captured.get().rstrip("\n")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("note", ["", "no answer from the node for 12 s"])
def test_it_is_one_line_with_room_for_what_the_terminal_echoes(width: int, note: str) -> None:
    shown = drawn(width, Standing(123_456, 1_000_000, 20_000, 1_234, note))
    assert "\n" not in shown
    assert len(shown) <= width - batch_display.ECHO_WIDTH
    assert "123,456/1,00" in shown
    assert ("━" in shown) == (width >= 100)


def test_the_first_second_shows_nothing_unless_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    screen = Screen(console)
    screen.update(Standing(1, 2, 1, 0))
    assert not screen._live.is_started
    now = time.monotonic()
    monkeypatch.setattr(batch_display.time, "monotonic", lambda: now + 1.5)
    try:
        screen.update(Standing(1, 2, 1, 0))
        assert screen._live.is_started
    finally:
        monkeypatch.undo()
        screen.close()
    assert not screen._live.is_started


def test_without_a_terminal_only_sentences_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with display() as (update, say):
        update(Standing(1, 2, 1, 0, "the node is full"))
        say("Stopping.")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Stopping.\n")
