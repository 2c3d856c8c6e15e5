"""`kowalski replay`, `audit` and `export` on the ledger that a real node has written, with no node
running."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from kowalski_gateway.cli.checks import ledger as ledger_check
from kowalski_gateway.cli.ledger import clock_reading
from kowalski_gateway.cli.main import run
from kowalski_gateway.cli.wording import size
from kowalski_ledger import audit as ledger_audit
from kowalski_ledger import fold, task_fold
from kowalski_node.views import ClusterView
from tests.ports.test_node_port import PATIENCE_S, echo, real, submit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClusterView]:
    """A home folder that a node has used, and the cluster as it showed it last."""
    folder = tmp_path_factory.mktemp("node")

    async def work() -> ClusterView:
        async with real(folder) as node:
            ids = await submit(node, *(echo(n) for n in range(20)))
            with trio.fail_after(PATIENCE_S):
                for task_id in ids:
                    while (await node.task(task_id)).state != "settled":
                        await trio.lowlevel.checkpoint()
            return node.cluster()

    return folder / "home", trio.run(work)


@pytest.fixture
def home(written: tuple[Path, ClusterView], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOWALSKI_HOME", str(written[0]))
    return written[0]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_replay_tells_what_the_node_has_written(
    home: Path, written: tuple[Path, ClusterView], capsys: pytest.CaptureFixture[str]
) -> None:
    report = shown(capsys, "replay")
    assert set(report) >= {
        "events", "frames", "digest", "heads", "tasks", "seconds", "events_per_s",
    }  # fmt: skip
    assert re.fullmatch(r"\d+:[0-9a-f]{64}", report["digest"])
    # A node may write more while it stops than it showed last, never less.
    heads = {(head["author"], head["topic"]): head["seq"] for head in report["heads"]}
    assert all(heads[head.author, head.topic] >= head.seq for head in written[1].heads)
    assert report["tasks"]["settled"] == 20
    assert (
        shown(capsys, "replay", "--ledger", str(home / "ledger.db"))["events"] == (report["events"])
    )
    assert run(["replay"]) == 0
    text = capsys.readouterr().out
    assert f"{report['events']:,} in" in text
    assert "20: 0 open, 20 settled (20 completed)" in text


def test_replay_until_a_moment_folds_what_was_before(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, "replay", "--until", "0")["events"] == 0
    assert shown(capsys, "replay", "--until", "1999-12-31")["events"] == 0
    whole = shown(capsys, "replay")["events"]
    assert shown(capsys, "replay", "--until", "2999-01-01T00:00:00Z")["events"] == whole


def test_a_moment_is_the_last_reading_of_its_millisecond() -> None:
    assert clock_reading("12345") == 12345
    assert clock_reading("1970-01-01T00:00:01Z") == (1000 << 16) | 0xFFFF
    assert clock_reading("1970-01-01T01:00:01+01:00") == (1000 << 16) | 0xFFFF
    assert clock_reading("1970-01-01 00:00:01") == (1000 << 16) | 0xFFFF


def test_audit_finds_a_sound_ledger_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = shown(capsys, "audit")
    assert report["ok"] is True
    assert report["problems"] == []
    assert report["signatures"] > 0
    assert run(["audit"]) == 0
    assert "whole" in capsys.readouterr().out


def test_audit_of_an_edited_ledger_exits_with_1_and_says_where(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    with (
        closing(sqlite3.connect(home / "ledger.db")) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        (position,) = target.execute("SELECT max(position) FROM events").fetchone()
        target.execute("UPDATE events SET body = x'93c0' WHERE position = ?", (position,))
        target.commit()
    report = shown(capsys, "audit", "--ledger", str(copy), code=1)
    assert report["ok"] is False
    assert {"author", "topic", "seq", "what"} <= set(report["problems"][0])
    assert run(["audit", "--ledger", str(copy)]) == 1
    assert "damaged" in capsys.readouterr().out


def test_export_writes_a_line_per_event(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "events.jsonl"
    report = shown(capsys, "export", "--out", str(out))
    lines = [json.loads(line) for line in out.read_text(encoding="ascii").splitlines()]
    assert len(lines) == report["events"] == shown(capsys, "replay")["events"]
    assert lines[0]["kind"] == "ClusterFounded"
    capsys.readouterr()
    assert run(["export", "--out", "-"]) == 0
    assert capsys.readouterr().out == out.read_text(encoding="ascii")
    assert run(["export", "--out", str(tmp_path / "no" / "x")]) == 1


def test_the_log_beside_a_ledger_counts_with_its_size(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, link = tmp_path / "copy.db", tmp_path / "link.db"
    link.symlink_to(path)
    with (
        closing(sqlite3.connect(home / "ledger.db")) as source,
        closing(sqlite3.connect(path)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode = WAL")
        target.execute("INSERT INTO meta (key, value) VALUES ('note', x'00')")
        target.commit()
        target.execute("DELETE FROM meta WHERE key = 'note'")
        target.commit()
        log = path.with_name("copy.db-wal").stat().st_size
        assert log > 1024
        whole = size(path.stat().st_size + log)
        assert whole != size(path.stat().st_size)
        for command in ("audit", "replay"):
            for given in (path, link):
                assert run([command, "--ledger", str(given)]) == 0
                assert f"{given} ({whole})" in capsys.readouterr().out
        finding = ledger_check(path)
        assert finding.sentence.endswith(f"events, {whole}")


def test_a_problem_of_the_file_has_no_author_and_no_number(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    with (
        closing(sqlite3.connect(home / "ledger.db")) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    with copy.open("r+b") as file:  # pages in the middle, behind the tables' names
        file.seek(copy.stat().st_size // 2)
        file.write(b"\xff" * 8192)
    report = shown(capsys, "audit", "--ledger", str(copy), code=1)
    of_file = [one for one in report["problems"] if not one["author"]]
    assert of_file
    assert run(["audit", "--ledger", str(copy)]) == 1
    text = capsys.readouterr().out
    lines = text.partition("Problems\n")[2].splitlines()
    assert not any(line.startswith("…  ") for line in lines)
    rows = [line.split() for line in lines[1:] if line.startswith("–")]
    assert rows
    assert not any("0" in row[:3] for row in rows)


def test_an_export_into_a_pipe_says_how_many_events_and_no_size(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=pipe.read_bytes, daemon=True)
    reader.start()
    assert run(["export", "--out", str(pipe)]) == 0
    assert re.fullmatch(rf"Wrote [\d,]+ events to {pipe}\.\n", capsys.readouterr().out)
    reader.join(10)
    assert not reader.is_alive()


@pytest.mark.parametrize("command", ["replay", "audit", "export --out -"])
def test_a_ledger_that_is_not_there_is_told(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KOWALSKI_HOME", str(tmp_path))
    assert run(command.split()) == 1
    assert "There is no ledger at" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["replay", "audit", "export --out -"])
def test_a_file_that_is_no_ledger_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"not a database" * 1000)
    assert run([*command.split(), "--ledger", str(foreign)]) == 1
    assert capsys.readouterr().err.startswith("error [ledger_foreign]: ")
    assert foreign.read_bytes() == b"not a database" * 1000


def _said(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"


def findings_of(module: ModuleType) -> set[str]:
    """What a module may put down as a finding, with `…` for what is filled in."""
    said: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            (".find", "findings.add")
        ):
            text = node.args[-1]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            said.add("".join(_said(part) for part in parts))
    return said - {"…"}  # what another module said, passed on


def test_the_help_and_the_manual_list_what_audit_lists(capsys: pytest.CaptureFixture[str]) -> None:
    said = findings_of(fold) | findings_of(task_fold) | findings_of(ledger_audit)
    assert len(said) > 5
    assert run(["audit", "--help"]) == 0
    help_text = " ".join(capsys.readouterr().out.split())
    promised = re.search(r"that does not count \((.+?)\) is listed as findings", help_text)
    assert promised is not None
    for example in promised[1].split(", "):
        words = example.split(" by one ")[-1]
        assert any(words.removeprefix("a ") in one for one in said), example
    manual = (ROOT / "docs" / "debugging.md").read_text(encoding="utf-8")
    _, _, table = manual.partition("### Findings")
    assert [one for one in sorted(said) if f"`{one}`" not in table] == []
    # Neither lists forks; whoever makes audit find them mends what the two say.
    assert not any("fork" in one for one in said)
    assert "Forks are not among them" in help_text
