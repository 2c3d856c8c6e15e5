"""`python -m kowalski_blocks` shows a person what is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kowalski_blocks.__main__ import main, table

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answer.md"
    file.write_text("Hi\n\n```python\nx\n```\n\n```\nprint(1)\n", encoding="utf-8")
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == (
        "lines  language  kind\n"
        "3-5    python    fenced\n"
        "7-8    python    fenced  inferred, not closed\n"
    )


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answer.md"
    file.write_bytes(b"\xff `a`\r\n\r\n```py\r\nx\r\n```\r\n")
    assert main([str(file), "--json", "--inline"]) == 0
    spans = json.loads(capsys.readouterr().out)
    assert [(s["kind"], s["code"], s["language"]) for s in spans] == [
        ("inline", "a", None),
        ("fenced", "x\n", "python"),
    ]


def test_the_command_says_which_file_it_cannot_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/answer.md"]) == 2
    assert "/nowhere/answer.md: No such file" in capsys.readouterr().err


def test_the_command_reads_what_is_piped_in() -> None:
    program = (
        f"import sys; sys.path[:0] = {[str(ROOT / 'node'), str(ROOT / 'protocol')]!r}\n"
        "from kowalski_blocks.__main__ import main; sys.exit(main([]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], input=b"~~~sh\nls", capture_output=True, timeout=60
    )
    assert run.stdout.decode() == "lines  language  kind\n1-2    bash      fenced  not closed\n"


def test_a_table_of_nothing_has_its_head() -> None:
    assert table([]) == "lines  language  kind\n"
