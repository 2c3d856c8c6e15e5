"""A graph as text for a terminal: its tasks in layers, a line each, and on what each depends.

A task stands in the layer below the last of those that it depends on, so time runs downwards and
what stands in one layer can run side by side. Lines between single tasks would cross each other in
any graph of some size; the names behind the arrow say the same and can be searched for. What is
alike is folded, a layer of many tasks and a run of many layers, and what has failed or runs is
shown first, because that is what a person looks for.

What is drawn comes from the ledger, so names are cut and made safe, a task that is not there is
left out, and a cycle, which no graph may have, ends up in the last layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from .screen import console
from .wording import duration, safe

WIDTH: Final = 100
"""Columns that a line has at most: readers and logs keep such lines whole."""
NAME_WIDTH_MAX: Final = 28
NAME_END: Final = 10
STATE_WIDTH_MAX: Final = 15
DEVICE_WIDTH_MAX: Final = 16
LAYER_ROWS_MAX: Final = 8
"""Tasks of one layer that are shown before the others are counted."""
FOLDED_MIN: Final = 2
"""So few are shown as well: counting them would save nothing."""
LAYERS_WHOLE_MAX: Final = 12
"""A graph of more layers has its runs of like layers folded."""
LIKE_LAYERS_MIN: Final = 4
_AFTER_WIDTH_MIN: Final = 16
_GAP: Final = "  "

_UNDER_WAY: Final = ("running", "placed")
_NOT_BEGUN: Final = ("submitted", "waiting", "not run", "")
_WELL: Final = "completed"


class TaskShown(NamedTuple):
    """What is drawn of a task."""

    after: Sequence[str]
    """The names of those that it depends on."""
    state: str
    """running, waiting, ..., and how it ended once it has: completed, failed, ..."""
    device: str
    """Where it runs or ran; empty where nowhere."""
    run_s: float | None
    """How long it ran."""


class _Glyphs(NamedTuple):
    well: str
    badly: str
    under_way: str
    not_begun: str
    first: str
    middle: str
    last: str
    down: str
    from_: str
    more: str


_UNICODE: Final = _Glyphs("✓", "✗", "●", "○", "┌", "├", "└", "│", "←", "…")
_ASCII: Final = _Glyphs("+", "x", ">", ".", "/", "|", "\\", "|", "<-", "...")


class _Row(NamedTuple):
    """A task's line, before its columns have their width."""

    mark: str
    name: str
    state: str
    device: str
    run: str
    after: Sequence[str]
    """Names of tasks, all that there are."""


def draw(tasks: Mapping[str, TaskShown], *, ascii_only: bool | None = None) -> list[str]:
    """The lines of a drawing, each at most `WIDTH` columns wide.

    Args:
      ascii_only: use no other characters; None: as the terminal needs it.
    """
    if not tasks:
        return []
    if ascii_only is None:
        ascii_only = console().options.ascii_only
    return list(_Drawing(tasks, ascii_only).lines())


def layers(tasks: Mapping[str, TaskShown]) -> list[list[str]]:
    """The names by layer, each in the order given; those of a cycle and behind it come last."""
    needs = {name: {one for one in shown.after if one in tasks} for name, shown in tasks.items()}
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    for name, needed in needs.items():
        for one in needed:
            followers[one].append(name)
    depth = dict.fromkeys(tasks, 0)
    left = {name: len(needed) for name, needed in needs.items()}
    ready = [name for name, count in left.items() if not count]
    for name in ready:  # which grows as it is read
        for follower in followers[name]:
            depth[follower] = max(depth[follower], depth[name] + 1)
            left[follower] -= 1
            if not left[follower]:
                ready.append(follower)
    found: list[list[str]] = [
        [] for _ in range(max(depth[name] for name in ready) + 1 if ready else 0)
    ]
    cycle: list[str] = []
    for name in tasks:
        (cycle if left[name] else found[depth[name]]).append(name)
    return [*found, cycle] if cycle else found


class _Drawing:
    def __init__(self, tasks: Mapping[str, TaskShown], ascii_only: bool) -> None:
        self._tasks = tasks
        self._ascii_only = ascii_only
        self._glyphs = _ASCII if ascii_only else _UNICODE
        self._layers = layers(tasks)
        self._shown = [self._most_telling(layer) for layer in self._layers]
        self._rows = {name: self._row(name) for shown in self._shown for name in shown}
        rows = self._rows.values()
        self._widths = [
            max(_cells(row.name) for row in rows),
            max(_cells(row.state) for row in rows),
            max(_cells(row.device) for row in rows),
            max(_cells(row.run) for row in rows),
        ]

    def lines(self) -> Iterator[str]:
        """The whole, from the first layer to the last."""
        at = 0
        while at < len(self._layers):
            if at:
                yield self._glyphs.down
            yield from self._layer(at)
            like = self._like(at)
            if like > LIKE_LAYERS_MIN and len(self._layers) > LAYERS_WHOLE_MAX:
                hidden = self._layers[at + 1 : at + like - 1]
                counts = Counter(self._tasks[name].state for layer in hidden for name in layer)
                yield self._glyphs.down
                said = (
                    f"{self._glyphs.more} and {len(hidden):,} more layers: {self._counted(counts)}"
                )
                yield self._cut(said, WIDTH)
                at += like - 1
            else:
                at += 1

    def _like(self, at: int) -> int:
        """How many layers from here on have one state, the same in all of them."""
        states = {self._tasks[name].state for name in self._layers[at]}
        end = at
        while end < len(self._layers) and states == {
            self._tasks[name].state for name in self._layers[end]
        }:
            end += 1
        return end - at if len(states) == 1 else 1

    def _most_telling(self, layer: Sequence[str]) -> list[str]:
        """Those of a layer that are shown, in its order."""
        if len(layer) <= LAYER_ROWS_MAX:
            return list(layer)
        by_state: dict[str, list[str]] = {}
        for name in layer:
            by_state.setdefault(self._tasks[name].state, []).append(name)
        chosen: set[str] = set()
        for state in sorted(by_state, key=_urgency):
            room = LAYER_ROWS_MAX - len(chosen)
            # One of each state at least is an example for what is counted.
            limit = room if _urgency(state) < 2 else max(1, room // 2)
            chosen.update(by_state[state][: max(min(limit, room), 0)])
        if len(layer) - len(chosen) <= FOLDED_MIN:
            return list(layer)
        return [name for name in layer if name in chosen]

    def _layer(self, at: int) -> Iterator[str]:
        shown, layer = self._shown[at], self._layers[at]
        hidden = Counter(self._tasks[name].state for name in set(layer) - set(shown))
        total = len(shown) + bool(hidden)
        for number, name in enumerate(shown):
            yield self._line(self._gutter(number, total), self._rows[name], at)
        if hidden:
            gutter = self._gutter(total - 1, total)
            said = self._counted(hidden)
            if len(hidden) == 1:
                said = said.replace(" ", " more ", 1)
            else:
                said = f"{hidden.total():,} more: {said}"
            yield self._cut(f"{gutter} {self._glyphs.more} and {said}", WIDTH)

    def _gutter(self, number: int, total: int) -> str:
        if total == 1:
            return self._glyphs.down
        if number == 0:
            return self._glyphs.first
        return self._glyphs.last if number == total - 1 else self._glyphs.middle

    def _line(self, gutter: str, row: _Row, at: int) -> str:
        name, state, device, run = self._widths
        columns = [f"{gutter} {row.mark} {_padded(row.name, name)}", _padded(row.state, state)]
        if device:
            columns.append(_padded(row.device, device))
        if run:
            columns.append(" " * (run - _cells(row.run)) + row.run)
        line = _GAP.join(columns)
        room = WIDTH - _cells(line) - len(_GAP)
        after = self._after(row.after, at, room)
        return f"{line}{_GAP}{after}".rstrip()

    def _after(self, names: Sequence[str], at: int, room: int) -> str:
        """On what a task depends, as far as there is room for it."""
        arrow = self._glyphs.from_
        if not names or room < _AFTER_WIDTH_MIN:
            return ""
        above = self._layers[at - 1] if at else []
        if len(names) > 2 and set(names) == set(above):
            return f"{arrow} all {len(names):,} above"
        shown = [self._name(name) for name in names]
        for count in range(len(shown), 0, -1):
            rest = len(shown) - count
            more = f" and {rest:,} more" if rest else ""
            said = f"{arrow} {', '.join(shown[:count])}{more}"
            if _cells(said) <= room:
                return said
        return (
            f"{arrow} {len(shown):,} tasks"
            if len(shown) > 1
            else self._cut(f"{arrow} {shown[0]}", room)
        )

    def _row(self, name: str) -> _Row:
        task = self._tasks[name]
        return _Row(
            self._mark(task.state),
            self._name(name),
            self._plain(task.state, STATE_WIDTH_MAX),
            self._plain(task.device, DEVICE_WIDTH_MAX),
            "" if task.run_s is None else self._plain(duration(task.run_s), 10),
            list(dict.fromkeys(one for one in task.after if one in self._tasks)),
        )

    def _mark(self, state: str) -> str:
        urgency = _urgency(state)
        glyphs = self._glyphs
        return (glyphs.badly, glyphs.under_way, glyphs.not_begun, glyphs.well)[urgency]

    def _counted(self, counts: Counter[str]) -> str:
        ordered = sorted(counts, key=lambda state: (_urgency(state), state))
        return ", ".join(
            f"{counts[state]:,} {self._plain(state, STATE_WIDTH_MAX)}" for state in ordered
        )

    def _name(self, name: str) -> str:
        """A task's name, cut in its middle: names of many tasks differ at their end."""
        if len(name) > NAME_WIDTH_MAX and name.isascii() and name.isprintable():
            head = NAME_WIDTH_MAX - NAME_END - len(self._glyphs.more)
            return name[:head] + self._glyphs.more + name[-NAME_END:]
        return self._plain(name, NAME_WIDTH_MAX)

    def _plain(self, text: str, width: int) -> str:
        """Text of others as the terminal can show it, within a column."""
        shown = safe(text, 4 * width)
        if self._ascii_only:
            shown = shown.replace("…", "...").encode("ascii", "replace").decode()
        return self._cut(shown, width)

    def _cut(self, text: str, width: int) -> str:
        from rich.cells import set_cell_size

        if _cells(text) <= width:
            return text
        more = self._glyphs.more
        return set_cell_size(text, width - len(more)).rstrip() + more


def _urgency(state: str) -> int:
    """What a person looks for first."""
    if state == _WELL:
        return 3
    if state in _NOT_BEGUN:
        return 2
    return 1 if state in _UNDER_WAY else 0


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))
