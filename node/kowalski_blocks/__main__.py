"""`python -m kowalski_blocks [FILE]`: shows what is found in a file, or in what is piped in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .block import CodeBlock
from .finding import find_blocks


def table(blocks: Sequence[CodeBlock]) -> str:
    """One row a block: its lines, its language, its kind, and what else there is to know."""
    rows = [("lines", "language", "kind", "")]
    for block in blocks:
        notes = ["inferred"] * block.is_inferred + ["not closed"] * (not block.is_closed)
        rows.append(
            (
                f"{block.first_line}-{block.last_line}",
                block.language or "-",
                block.kind,
                ", ".join(notes),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]).rstrip()
        + "\n"
        for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the blocks of a file and returns the exit code: 0, or 2 where it can't be read."""
    parser = argparse.ArgumentParser(
        prog="python -m kowalski_blocks", description="Finds the code in a model's answer."
    )
    parser.add_argument("file", nargs="?", default="-", help="the answer; '-' is standard input")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    parser.add_argument("--inline", action="store_true", help="find code within lines, too")
    parser.add_argument("--strict", action="store_true", help="find what CommonMark does, no more")
    options = parser.parse_args(arguments)
    try:
        data = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    except OSError as problem:
        sys.stderr.write(f"{options.file}: {problem.strerror}\n")
        return 2
    blocks = find_blocks(
        data.decode("utf-8", errors="replace"), inline=options.inline, strict=options.strict
    )
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(blocks)).decode() + "\n")
    else:
        sys.stdout.write(table(blocks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
