"""Code within a line: what stands between two runs of equally many backticks of one paragraph.

A paragraph is put together from its lines, so that a span may go over a line's end, as CommonMark
has it; a run that no equal one follows is text. Links, autolinks and inline HTML are not looked at:
a backtick in an address counts here.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import Final

from .block import CodeBlock
from .lines import Lines

_RUN: Final = re.compile("`+")
_RUN_OR_ESCAPE: Final = re.compile(r"\\[!-/:-@\[-`{-~]|`+")


class Paragraphs:
    """Collects the lines of a text's paragraphs and headings, as the scanner tells them."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._paragraphs: list[list[tuple[int, str]]] = []

    def add(self, number: int, stripped: str, is_new: bool) -> None:
        """Takes the next line; `stripped` is the line's end from its first character on."""
        if is_new or not self._paragraphs:
            self._paragraphs.append([])
        self._paragraphs[-1].append((number, stripped))

    def spans(self) -> list[CodeBlock]:
        """The code spans of all paragraphs, in order."""
        return [
            span
            for paragraph in self._paragraphs
            if any("`" in line for _, line in paragraph)
            for span in self._spans(paragraph)
        ]

    def _spans(self, paragraph: list[tuple[int, str]]) -> list[CodeBlock]:
        text = "\n".join(line for _, line in paragraph)
        begins: list[int] = []
        at = 0
        for _, line in paragraph:
            begins.append(at)
            at += len(line) + 1
        found: list[CodeBlock] = []
        for start, end, code in _matched_runs(text):
            first = bisect_right(begins, start) - 1
            last = bisect_right(begins, end - 1) - 1
            first_line, first_text = paragraph[first]
            last_line, last_text = paragraph[last]
            found.append(
                CodeBlock(
                    code=code,
                    language=None,
                    info="",
                    is_inferred=False,
                    kind="inline",
                    start=self._lines.offset(first_line, first_text) + start - begins[first],
                    end=self._lines.offset(last_line, last_text) + end - begins[last],
                    first_line=first_line + 1,
                    last_line=last_line + 1,
                    is_closed=True,
                )
            )
        return found


def _matched_runs(text: str) -> list[tuple[int, int, str]]:
    """(start, end, code) of each span of a paragraph."""
    starts: dict[int, list[int]] = {}
    for run in _RUN.finditer(text):
        starts.setdefault(len(run[0]), []).append(run.start())
    spans: list[tuple[int, int, str]] = []
    at = 0
    while (opened := _RUN_OR_ESCAPE.search(text, at)) is not None:
        at = opened.end()
        if opened[0].startswith("\\"):
            continue
        length = len(opened[0])
        equal = starts.get(length, [])
        place = bisect_left(equal, at)
        if place < len(equal):
            code = text[at : equal[place]].replace("\n", " ")
            if code.strip(" ") and code[0] == code[-1] == " ":
                code = code[1:-1]
            at = equal[place] + length
            spans.append((opened.start(), at, code))
    return spans
