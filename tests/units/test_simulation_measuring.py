"""The commands that measure simulated clusters: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from simulations import availability, scale, scale_page, speed
from simulations.__main__ import main
from simulations.availability import DAY_S, KINDS, failures
from simulations.scale import Cost, Growth


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_the_speed_is_that_of_all_worlds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SEEDS", range(2))
    done = run("speed", "--minutes", "0.5", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["worlds"] == 2
    assert found["times_real"] == pytest.approx(found["simulated_s"] / found["core_s"])
    assert found["slowest"] <= found["times_real"] <= found["fastest"]
    assert "times real time" in run("speed", "--minutes", "0.5").stdout


def test_the_scale_page_has_every_size_and_its_plots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scale, "TASKS", 20)
    monkeypatch.setattr(scale, "CONCURRENT", 60)
    page = tmp_path / "scale.md"
    done = run("scale", "--nodes", "4,3", "--write", str(page))
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "| Devices | 3 | 4 |" in text
    assert text.count("```mermaid") == 3
    (row,) = [line for line in text.splitlines() if line.startswith("| an idle minute: messages")]
    three, four = (float(cell.replace(",", "")) for cell in row.split("|")[2:4])
    assert 0 < three < four


def test_the_page_is_written_from_the_figures() -> None:
    growths = [
        Growth(n, Cost(60.0 * n, 6e6 * n, 0.6), Cost(n, 1e3, 1e-3), 0.5, 0.2, 5.0, 40.0, 16 * n)
        for n in (3, 100)
    ]
    text = scale_page.page(growths)
    assert "| an idle minute: messages | 180 | 6,000 |" in text
    assert "| at rest: KB sent a second by each device | 100 | 100 |" in text
    assert "| slots of all devices | 48 | 1,600 |" in text
    assert "    line [3, 100]" in text


@pytest.mark.parametrize("sizes", ["", "two", "2,3", "3,1000"])
def test_sizes_that_can_not_be_measured_are_refused(sizes: str) -> None:
    done = run("scale", "--nodes", sizes)
    assert done.exit_code == 2
    assert "numbers from 3 to 128" in done.output


def test_one_device_fails_a_day() -> None:
    import random

    faults = failures(random.Random(1), 30, 3)
    assert [int(fault.at_s // DAY_S) for fault in faults] == list(range(30))
    assert {fault.kind for fault in faults} == set(KINDS)
    assert all(60.0 <= fault.lasts_s <= 3600.0 for fault in faults)


def test_people_are_served_while_devices_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short life in which something fails all the time: nobody's work is lost for it."""
    monkeypatch.setattr(availability, "DAY_S", 120.0)
    found = availability.measure(days=10, nodes=3)
    assert found.failures == 10
    assert found.submissions > 0
    assert found.submissions_failed == 0
    assert found.reads > 5


def test_what_was_counted_is_told() -> None:
    done = run("availability", "--days", "0.05")
    assert done.exit_code == 0, done.output
    assert "100.0000 % at once" in done.stdout
