"""A line that shows how a task is while a command waits for it: its state, its device, how long.

It stands on a terminal's stderr alone, comes once a second has passed in silence, and goes when
the task prints or the waiting ends. What it shows is asked for on a connection of its own, since
the command's own is waiting.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kowalski_protocol.errors import Problem

from .bars import SHOW_AFTER_S
from .cluster import device_names
from .screen import wants_json
from .transport import NodeApi, node_api, part
from .wording import SHORT_ID_LENGTH, duration, peer_end, safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LOOK_EVERY_S: Final = 0.25
ASK_EVERY_S: Final = 1.0


class Watch:
    """Shows nothing; what there is where stderr is no terminal."""

    def printed(self, text: str) -> None:
        """Makes room for output that is about to be printed."""


class TerminalWatch(Watch):
    """The line itself, drawn and fed by a thread."""

    def __init__(self, api: NodeApi, task_id: str, console: Console) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._api = api
        self._task_id = task_id
        self._began = self._silent_since = time.monotonic()
        self._is_line_open = False
        """Whether the task has printed half a line: the cursor is in it, so ours would spoil it."""
        self._spinner = Spinner("dots")
        self._view: dict[str, Any] | None = None
        self._names: dict[str, str] = {}
        self._live = Live(
            get_renderable=self._line,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Takes the line from the screen, for good."""
        self._over.set()
        self._hide()

    def printed(self, text: str) -> None:
        self._is_line_open = not text.endswith("\n")
        self._hide()

    def _hide(self) -> None:
        with self._drawing:
            self._silent_since = time.monotonic()
            self._live.stop()

    def _watch(self) -> None:
        asked = self._began
        while not self._over.wait(LOOK_EVERY_S):
            now = time.monotonic()
            if now - asked >= ASK_EVERY_S or self._view is None:
                asked = now
                self._ask()
            with self._drawing:
                silent_s = time.monotonic() - self._silent_since
                is_due = silent_s >= SHOW_AFTER_S and not self._is_line_open
                if is_due and not self._over.is_set():
                    self._live.start()

    def _ask(self) -> None:
        try:
            view: dict[str, Any] = self._api.get(f"/api/tasks/{part(self._task_id)}")
            if view["device"] and view["device"] not in self._names:
                self._names = device_names(self._api.get("/api/cluster"))
        except Problem:
            return  # the command itself is told the same, and tells it
        self._view = view

    def _line(self) -> RenderableType:
        from rich.text import Text

        waited_s = time.monotonic() - self._began
        waited = f"{waited_s:.0f} s" if waited_s < 60 else duration(waited_s)
        words = f"task {safe(self._task_id)[:SHORT_ID_LENGTH]}: {self._state()}, {waited}"
        self._spinner.update(text=Text(words))
        line = self._spinner.render(time.monotonic())
        if isinstance(line, Text):  # one line, however narrow the screen
            line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def _state(self) -> str:
        view = self._view
        if view is None:
            return "no word from the node"
        state = safe(view["outcome"] or view["state"])
        if view["device"]:
            name = self._names.get(view["device"])
            return f"{state} on {safe(name) if name else peer_end(view['device'])}"
        return f"{state}, {safe(view['waiting'])}" if view.get("waiting") else state


@contextmanager
def watching(task_id: str) -> Iterator[Watch]:
    """Watches a task for as long as the context is open."""
    if wants_json() or not sys.stderr.isatty():
        yield Watch()
        return
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    watch = TerminalWatch(node_api(), task_id, console)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
