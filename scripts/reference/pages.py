"""Which pages the reference has, and how each one is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from . import (
    command_line_page,
    configuration_page,
    errors_page,
    events_page,
    http_page,
    limits_page,
    python_page,
)

ROOT: Final = Path(__file__).resolve().parents[2]

PAGES: Final[dict[str, Callable[[], str]]] = {
    "command-line.md": command_line_page.render,
    "http.md": http_page.render,
    "errors.md": errors_page.render,
    "limits.md": limits_page.render,
    "events.md": events_page.render,
    "configuration.md": configuration_page.render,
    "python.md": python_page.render,
}
