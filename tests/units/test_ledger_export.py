"""Export writes what a ledger says as text that any program reads and no terminal is fooled by."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from kowalski_ledger.export import export
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import TaskCompleted, WeightsChanged
from kowalski_protocol.feeds import genesis, signed_message
from kowalski_protocol.identity import author_of, verify
from tests.ports.ledgers import Story, make_ledger, tampering


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def exported(path: Path) -> list[dict[str, object]]:
    out = path.with_name("out.jsonl")
    count = export(path, out)
    lines = [json.loads(line) for line in out.read_text("ascii").splitlines()]
    assert len(lines) == count
    return lines


def test_every_event_is_one_line_in_order_of_arrival(path: Path) -> None:
    story = Story()
    events = make_ledger(path, story)
    lines = exported(path)
    assert [line["hash"] for line in lines] == [event.hash.hex() for event in events]
    prevs: dict[tuple[object, object], str] = {}
    for event, line in zip(events, lines, strict=True):
        assert author_of(str(line["author"])) == event.author
        assert (line["topic"], line["seq"], line["kind"]) == (event.topic, event.seq, event.kind)
        assert line["hlc"] == event.hlc
        feed = (line["author"], line["topic"])
        start = genesis(story.cluster, event.author, event.topic).hex()
        assert line["prev"] == prevs.get(feed, start)
        prevs[feed] = event.hash.hex()
        assert line["signature"] == (event.signature.hex() if event.signature else None)
        assert line["attachment_size_bytes"] == (
            len(event.attachment) if event.attachment is not None else None
        )
        if event.signature:
            signature = bytes.fromhex(str(line["signature"]))
            assert verify(event.author, signature, signed_message(event.hash))


def test_bodies_are_told_field_by_field_with_bytes_as_hex(path: Path) -> None:
    events = make_ledger(path, Story())
    lines = exported(path)
    at = next(n for n, event in enumerate(events) if event.kind == "TaskCompleted")
    body = msgspec.msgpack.decode(events[at].body, type=TaskCompleted)
    assert lines[at]["body"] == {
        "task": body.task.hex(),
        "attempt": body.attempt.hex(),
        "result_hash": body.result_hash.hex(),
        "result_size_bytes": body.result_size_bytes,
        "started_ms": body.started_ms,
        "run_us": body.run_us,
        "is_blob": False,
        "files": [],
    }
    submitted = next(line for line in lines if line["kind"] == "TaskSubmitted")
    spec = submitted["body"]["spec"]  # pyright: ignore[reportIndexIssue]
    assert (spec["kind"], spec["need"], spec["timeout_s"]) == ("tool", "echo", 300.0)
    assert lines[0]["time"] == "2025-06-15T15:06:40.000Z"


def test_what_can_not_be_read_is_told_in_hex(path: Path) -> None:
    story = Story()
    device = story.devices[1]
    odd = [
        device.write_raw("task", "SomethingNewer", b"\xde\xad"),
        device.sign(device.write_raw("task", "TaskPlaced", b"\xff")),
    ]
    make_ledger(path, story, [story.opening, odd])
    lines = exported(path)[-2:]
    assert [(line["body"], line["body_hex"]) for line in lines] == [(None, "dead"), (None, "ff")]
    assert all(line["body_hex"] is None for line in exported(path)[:-2])


def test_text_made_for_a_terminal_arrives_as_plain_ascii(path: Path) -> None:
    story = Story()
    device = story.devices[1]
    name = "\x1b[2J\x7f\u202egnp.exe\u0085\n\x7f日本"
    frame = device.frame([WeightsChanged(name, {"cpu": float("nan"), "load": 1.5})])
    make_ledger(path, story, [story.opening, frame])
    out = path.with_name("out.jsonl")
    export(path, out)
    raw = out.read_bytes()
    assert all(byte == 10 or 32 <= byte < 127 for byte in raw)
    line = json.loads(raw.splitlines()[-1])
    assert line["body"] == {"kind": name, "weights": {"cpu": None, "load": 1.5}}


def test_times_past_every_date_are_no_date(path: Path) -> None:
    story = Story()
    device = story.devices[1]
    frame = [device.write_raw("task", "Odd", b"", hlc=hlc) for hlc in (1, (1 << 64) - 1)]
    make_ledger(path, story, [story.opening, [frame[0], device.sign(frame[1])]])
    early, late = exported(path)[-2:]
    assert (early["time"], early["hlc"]) == ("1970-01-01T00:00:00.000Z", 1)
    assert (late["time"], late["hlc"]) == (None, (1 << 64) - 1)


def test_standard_output_gets_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ledger(path, Story())
    count = export(path, "-")
    text = capsys.readouterr().out
    exported(path)
    assert path.with_name("out.jsonl").read_text() == text
    assert text.count("\n") == count


def test_a_file_appears_whole_or_not_at_all(path: Path) -> None:
    make_ledger(path, Story())
    out = path.with_name("out.jsonl")
    out.write_text("what was there before")
    with tampering(path) as file:
        file.execute("UPDATE events SET body = x'00' WHERE position = 200")
    with pytest.raises(Problem) as caught:
        export(path, out)
    assert caught.value.code == "ledger_corrupt"
    assert out.read_text() == "what was there before"
    assert not list(path.parent.glob("*.part"))


def test_the_ledger_is_never_written_over(path: Path) -> None:
    make_ledger(path, Story())
    digest = hashlib.sha256(path.read_bytes()).digest()
    for out in (path, str(path)):
        with pytest.raises(Problem):
            export(path, out)
    with pytest.raises(Problem):
        export(path, path.parent / "no" / "such" / "folder")
    with pytest.raises(Problem) as caught:
        export(path, "-", format="xml")
    assert caught.value.code == "bad_request"
    assert hashlib.sha256(path.read_bytes()).digest() == digest


def test_a_pipe_is_written_to_and_stays_a_pipe(path: Path) -> None:
    make_ledger(path, Story())
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text("ascii")), daemon=True)
    reader.start()
    # A reader may wait for ever where the pipe was replaced, so the kind is looked at first.
    count = export(path, pipe)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    reader.join(10)
    exported(path)
    assert read == [path.with_name("out.jsonl").read_text("ascii")]
    assert read[0].count("\n") == count


@pytest.mark.parametrize("is_there", [True, False])
def test_through_a_link_the_file_that_it_leads_to_is_written(path: Path, is_there: bool) -> None:
    make_ledger(path, Story())
    folder = path.parent / "elsewhere"
    folder.mkdir()
    target, link = folder / "events.jsonl", path.with_name("link")
    if is_there:
        target.write_text("what was there before")
    link.symlink_to(target)
    export(path, link)
    assert link.is_symlink()
    assert not target.is_symlink()
    exported(path)
    assert target.read_text() == path.with_name("out.jsonl").read_text()
    assert [*folder.iterdir()] == [target]


def test_a_link_to_a_pipe_leads_to_the_pipe(path: Path) -> None:
    make_ledger(path, Story())
    pipe, link = path.with_name("pipe"), path.with_name("link")
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    reader = threading.Thread(target=pipe.read_bytes, daemon=True)
    reader.start()
    export(path, link)
    assert link.is_symlink()
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    reader.join(10)
    assert not reader.is_alive()


def test_a_file_keeps_its_permissions_and_its_neighbours(path: Path) -> None:
    make_ledger(path, Story())
    out, neighbour = path.with_name("out.jsonl"), path.with_name("out.jsonl.part")
    out.touch(mode=0o600)
    neighbour.write_text("somebody's own")
    export(path, out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.stat().st_size > 0
    assert neighbour.read_text() == "somebody's own"


def test_what_is_no_file_is_refused(path: Path) -> None:
    make_ledger(path, Story())
    loop = path.with_name("loop")
    loop.symlink_to(loop)
    for out in (path.parent, loop):
        with pytest.raises(Problem) as caught:
            export(path, out)
        assert caught.value.code == "bad_request"
    assert loop.is_symlink()


def test_no_other_name_of_the_ledger_or_its_log_is_written_over(path: Path) -> None:
    make_ledger(path, Story())
    link, twin = path.with_name("link"), path.with_name("twin")
    link.symlink_to(path)
    twin.hardlink_to(path)
    log = path.with_name("ledger.db-wal")
    to_log = path.with_name("to-log")
    to_log.symlink_to(log)
    digest = hashlib.sha256(path.read_bytes()).digest()
    for out in (link, twin, log, to_log, path.with_name("ledger.db-shm")):
        with pytest.raises(Problem, match="overwrite the ledger"):
            export(path, out)
    with pytest.raises(Problem, match="overwrite the ledger"):
        export(link, path)
    assert hashlib.sha256(path.read_bytes()).digest() == digest
