"""How values become words that a person can read, whatever hostile text they hold. Pure.

Names, output and errors come from other devices. A terminal obeys control characters, and readers
obey characters that turn the direction of text, so both are shown as what they are (`\\x1b`) and
never sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

SHORT_ID_LENGTH: Final = 12
PEER_END_LENGTH: Final = 8

# Control characters (C0, DEL, C1), marks and overrides of direction, line and paragraph separators,
# characters without width, variation selectors' and tags' hidden planes, and lone surrogates.
_BEYOND_ASCII: Final = (
    r"\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff"
)
_UNSAFE: Final = re.compile(rf"[\x00-\x1f{_BEYOND_ASCII}]")
_UNSAFE_IN_LINES: Final = re.compile(rf"[\x00-\x08\x0b-\x1f{_BEYOND_ASCII}]")


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe(text: object, length_max: int = 10_000) -> str:
    """The text on one line, with everything that a terminal would obey made visible."""
    whole = str(text)
    cut = whole if len(whole) <= length_max else whole[: length_max - 1] + "…"
    return _UNSAFE.sub(_shown, cut)


def safe_lines(text: str) -> str:
    """The same for output of several lines: line breaks and tabs stay."""
    return _UNSAFE_IN_LINES.sub(_shown, text.replace("\r\n", "\n"))


def short_ids(ids: Iterable[str], length: int = SHORT_ID_LENGTH) -> dict[str, str]:
    """Each id's first characters, as many as make all of them differ."""
    whole = dict.fromkeys(ids)
    while len({one[:length] for one in whole}) < len(whole):
        length += 4
    return {one: one[:length] for one in whole}


def peer_end(peer_id: str) -> str:
    """The end of a peer ID: all begin alike."""
    return f"…{safe(peer_id)[-PEER_END_LENGTH:]}"


def duration(seconds: float | None) -> str:
    """How long something took, in the unit that fits."""
    if seconds is None or seconds != seconds:
        return "–"
    if abs(seconds) < 0.0995:
        return f"{seconds * 1000:.1f} ms"
    if abs(seconds) < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 59.95:
        return f"{seconds:.1f} s"
    if abs(seconds) < 3570:
        return f"{seconds / 60:.0f} min"
    if abs(seconds) < 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def ago(then: float | None, now: float) -> str:
    """When something happened, seen from now."""
    if then is None:
        return "–"
    seconds = now - then
    if abs(seconds) < 1:
        return "just now"
    unit = ("s", 1) if abs(seconds) < 60 else ("min", 60) if abs(seconds) < 3600 else ("h", 3600)
    if abs(seconds) >= 86400:
        unit = ("d", 86400)
    count = f"{abs(seconds) / unit[1]:.0f} {unit[0]}"
    return f"{count} ago" if seconds > 0 else f"in {count}"


def size(size_bytes: float | None) -> str:
    """A number of bytes in the unit that fits."""
    if size_bytes is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def clock(seconds: float | None) -> str:
    """A time that passes while it is looked at, such as what is left: 0:07, 12:30, 1:02:03."""
    if seconds is None or not 0 <= seconds < 100 * 3600:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
