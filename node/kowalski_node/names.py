"""How a foreign name may be shown: one of another device, of a GPU, of anything not written here.

Names end up in terminals, logs and pages, where control characters are commands: they move the
cursor, set the title, turn the direction of writing or hide text. What a name loses here it did not
need to be recognised by. Cleaning is idempotent, so that a name may pass through here any number of
times.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from kowalski_protocol.limits import LIMITS

NAME_READ_MAX: Final = 1024
"""Characters looked at; longer text is not a name."""

_ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor moves
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x9c|\x1b\\)?"  # OSC, DCS
    r"|\x1b[ -/]*[0-~]?"
)


def clean_name(text: str) -> str:
    """A foreign name as it may be shown: printable, on one line, without escapes, at most 64 long.

    Characters that turn the direction of writing are not printable, nor are invisible ones."""
    text = unicodedata.normalize("NFC", _ESCAPES.sub("", text[:NAME_READ_MAX]))
    kept: list[str] = []
    marks = 0
    for character in text:
        if character.isspace():
            character = " "
        if not character.isprintable() or character == "\N{REPLACEMENT CHARACTER}":
            continue
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > 2:  # a tower of accents would run over the lines above and below
            continue
        kept.append(character)
    return " ".join("".join(kept).split())[: LIMITS.name_length_max].strip()
