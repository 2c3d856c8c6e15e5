"""What all tests share: their order, what they need of the machine, and how long Hypothesis looks.

A test that needs something that not every machine has says so with a marker, and is skipped with
the reason and the mend where the machine lacks it. What a machine can do is found out by doing it
(a program that is on the path may still not work), once, and only when a test asks.

`HYPOTHESIS_PROFILE=deep` looks a long time; CI looks at the same examples each time, so that its
word on a change is about the change.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent

# What is quick and explains most comes first: when a unit is wrong, no live test has to say so.
ORDER = ("units", "ports", "stories", "attacks", "live")

hypothesis.settings.register_profile("default", deadline=None, max_examples=100)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=100, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=5_000)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default")
)


def _works(*command: str) -> str | None:
    """None if the command ends well, else what it said."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    if run.returncode == 0:
        return None
    said = (run.stderr or run.stdout).strip().splitlines()
    return said[-1] if said else f"exit {run.returncode}"


@functools.cache
def lacks_network_namespaces() -> str | None:
    """Why this machine can't make network namespaces, or None if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces want root: run the tests with sudo to include this one"
    if shutil.which("ip") is None:
        return "the ip command is missing: apt-get install iproute2"
    name = f"kowalski-probe-{os.getpid()}"
    refused = _works("ip", "netns", "add", name)
    if refused:
        return f"this machine makes no network namespace: {refused}"
    try:
        refused = _works("ip", "-n", name, "link", "set", "lo", "up")
        return f"this machine's network namespaces don't work: {refused}" if refused else None
    finally:
        _works("ip", "netns", "delete", name)


@functools.cache
def lacks_bubblewrap() -> str | None:
    """Why this machine can't confine a process with bubblewrap, or None if it can."""
    if not sys.platform.startswith("linux"):
        return "bubblewrap is Linux's"
    if shutil.which("bwrap") is None:
        return "bubblewrap is missing: apt-get install bubblewrap"
    refused = _works("bwrap", "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc", "true")
    return f"bubblewrap does not work here: {refused}" if refused else None


NEEDS: dict[str, Callable[[], str | None]] = {
    "needs_netns": lacks_network_namespaces,
    "needs_bubblewrap": lacks_bubblewrap,
}


def _place(item: pytest.Item) -> int:
    folder = item.path.relative_to(TESTS).parts[0]
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the folders in `ORDER`, and gives the tests of two folders their marker."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder == "live":
            item.add_marker(pytest.mark.live)
        elif folder == "attacks":
            item.add_marker(pytest.mark.attack)
    items.sort(key=_place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what this machine can't run, and says why."""
    for marker, lacks in NEEDS.items():
        if item.get_closest_marker(marker) is not None:
            reason = lacks()
            if reason is not None:
                pytest.skip(reason)
