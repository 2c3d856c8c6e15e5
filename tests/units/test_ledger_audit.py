"""Audit finds what is wrong with a file, tells it from what members did wrong, and goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
import trio

from kowalski_ledger.audit import REMARKS_MAX, Remark, audit
from kowalski_ledger.store import open_store
from kowalski_protocol.codec import encode
from kowalski_protocol.errors import Problem
from kowalski_protocol.events import MemberAdmitted, TaskCompleted, TaskPlaced, TaskSettled
from kowalski_protocol.feeds import Event
from kowalski_protocol.identity import verify
from tests.ports.ledgers import Device, Story, make_ledger, tampering


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def what(remarks: list[Remark]) -> list[str]:
    return [remark.what for remark in remarks]


def test_a_sound_ledger_is_ok(path: Path) -> None:
    story = Story()
    events = make_ledger(path, story)
    report = audit(path)
    assert report.ok
    assert report.events == len(events)
    assert report.signatures == sum(event.signature is not None for event in events)
    assert (report.dropped, report.problems, report.findings) == (0, [], [])


def test_the_report_has_exactly_the_fields_of_the_contract(path: Path) -> None:
    story = Story()
    make_ledger(path, story, [story.opening, Device(77).noise(1)])
    report = json.loads(msgspec.json.encode(audit(path)))
    assert set(report) == {"ok", "events", "signatures", "dropped", "problems", "findings"}
    assert set(report["problems"][0]) == {"author", "topic", "seq", "what"}


async def test_a_file_is_audited_while_its_node_goes_on_writing(path: Path) -> None:
    story = Story()
    async with open_store(path) as store:
        await store.found(story.cluster, story.opening)
        for frame in story.tasks(12, frame_tasks=3):
            await store.append(frame)
            report = await trio.to_thread.run_sync(audit, path)
            assert report.ok
            assert report.events == store.position


def test_a_new_ledger_is_ok(path: Path) -> None:
    make_ledger(path, Story(), [])
    assert audit(path) == type(audit(path))(True, 0, 0, 0, [], [])


def test_unknown_kinds_and_bodies_are_no_problem(path: Path) -> None:
    story = Story()
    device = story.devices[1]
    odd = [
        device.write_raw("task", "SomethingNewer", b"\xff\xff", b"beside"),
        device.write_raw("task", "TaskSubmitted", b"\x91\xc4"),
        device.sign(device.write_raw("task", "TaskPlaced", b"[" * 3000)),
    ]
    make_ledger(path, story, [story.opening, odd])
    report = audit(path)
    assert report.ok
    assert report.findings[0].seq in (1, 2, 3)


def test_dropped_attachments_are_counted_and_no_problem(path: Path) -> None:
    story = Story()
    make_ledger(path, story)

    async def drop() -> int:
        async with open_store(path) as store:
            return await store.drop_attachments(before_hlc=1 << 62)

    assert trio.run(drop) == 120
    report = audit(path)
    assert report.ok
    assert report.dropped == 120


def test_bytes_beside_an_event_must_be_those_that_it_names(path: Path) -> None:
    story = Story()
    events = make_ledger(path, story)
    with tampering(path) as file:
        file.execute("UPDATE events SET attachment = x'00' WHERE position = 5")
    [problem] = audit(path).problems
    assert (problem.topic, problem.seq) == (events[4].topic, events[4].seq)
    assert problem.what == "the bytes beside it are not those that it names"


def test_bytes_that_no_body_names_are_a_finding(path: Path) -> None:
    story = Story()
    extra = story.devices[1].write(MemberAdmitted(bytes(32), "x", "member"), b"smuggled")
    make_ledger(path, story, [story.opening, [story.devices[1].sign(extra)]])
    report = audit(path)
    assert report.ok
    assert "bytes beside it that its body does not name" in what(report.findings)


def test_an_author_that_nothing_admitted_is_a_problem(path: Path) -> None:
    story = Story()
    stranger = Device(77)
    stranger.cluster = story.cluster
    make_ledger(path, story, [story.opening, stranger.noise(3), stranger.noise(1, topic="result")])
    report = audit(path)
    assert not report.ok
    assert [(p.author, p.topic) for p in report.problems] == [
        (stranger.identity.peer_id, "task"),
        (stranger.identity.peer_id, "result"),
    ]
    assert what(report.problems) == ["nothing in the file admitted this author"] * 2


def test_an_admission_by_one_who_is_no_admin_admits_nobody(path: Path) -> None:
    story = Story()
    member, friend = story.devices[2], Device(77)
    friend.cluster = story.cluster
    admission = member.frame([MemberAdmitted(friend.author, "friend", "member")])
    make_ledger(path, story, [story.opening, admission, friend.noise(2)])
    report = audit(path)
    assert what(report.problems) == ["nothing in the file admitted this author"]
    assert what(report.findings) == ["an admission by one who is no admin"]


def test_an_author_admitted_after_its_events_arrived_is_no_problem(path: Path) -> None:
    story = Story()
    late = Device(77)
    late.cluster = story.cluster
    words = late.noise(2)
    admission = story.devices[1].frame([MemberAdmitted(late.author, "late", "member")])
    make_ledger(path, story, [words, admission, story.opening])
    assert audit(path).ok


def test_what_members_did_wrong_is_a_finding_and_the_file_is_sound(path: Path) -> None:
    story = Story()
    founder, first, second = story.devices
    frames = list(story.frames(1))
    placed = next(e for e in frames[1] if e.kind == "TaskPlaced")
    task = msgspec.msgpack.decode(placed.body, type=TaskPlaced).task
    result = b"forged"
    forged = second.write(
        TaskCompleted(task, placed.hash, hashlib.sha256(result).digest(), len(result), 1, 1),
        result,
    )
    grab = first.frame([TaskSettled(task, b"", "failed", placed.hash)])
    make_ledger(path, story, [*frames, [second.sign(forged)], grab])
    report = audit(path)
    assert report.ok
    assert {finding.author for finding in report.findings} == {
        first.identity.peer_id,
        second.identity.peer_id,
    }
    assert {finding.seq for finding in report.findings} == {forged.seq, grab[0].seq}
    assert founder.identity.peer_id not in {finding.author for finding in report.findings}


def test_a_signature_of_another_is_a_problem(path: Path) -> None:
    story = Story()
    frame = story.devices[1].noise(4)
    story.devices[2].sign(frame[-1])
    make_ledger(path, story, [story.opening, frame])
    report = audit(path)
    assert report.signatures == 1
    assert report.problems == [
        Remark(story.devices[1].identity.peer_id, "task", 4, "its signature is not the author's")
    ]


def test_every_signature_is_checked(path: Path) -> None:
    story = Story()
    frames = [story.opening, *(story.devices[1].noise(1) for _ in range(400))]
    make_ledger(path, story, frames)
    asked: list[bytes] = []

    def refuse_some(author: bytes, signature: bytes, message: bytes) -> bool:
        asked.append(signature)
        return verify(author, signature, message) and signature != frames[300][0].signature  # pyright: ignore[reportArgumentType]

    report = audit(path, verifier=refuse_some)
    assert sorted(asked) == sorted(f[-1].signature or b"" for f in frames)
    assert report.signatures == 400
    assert [problem.seq for problem in report.problems] == [300]


def test_a_time_that_does_not_rise_is_a_problem(path: Path) -> None:
    story = Story()
    device = story.devices[1]
    frame = [device.write_raw("task", "Odd", b"", hlc=hlc) for hlc in (10, 20, 20, 30)]
    make_ledger(path, story, [story.opening, [*frame[:-1], device.sign(frame[-1])]])
    [problem] = audit(path).problems
    assert (problem.seq, problem.what) == (3, "its time does not rise")


def test_the_cluster_that_the_file_names_must_be_founded_in_it(path: Path) -> None:
    story = Story()
    make_ledger(path, story, [story.devices[1].noise(1)])
    assert "no event founds the cluster that the file names" in what(audit(path).problems)


def test_a_file_of_another_cluster_by_a_changed_name_is_all_wrong(path: Path) -> None:
    story = Story()
    make_ledger(path, story, [story.opening])
    with tampering(path) as file:
        file.execute("UPDATE meta SET value = zeroblob(32)")
    report = audit(path)
    assert report.problems[0].what == "it does not match its hash"
    assert "no event founds the cluster that the file names" in what(report.problems)


def test_only_the_first_problems_are_told_and_the_rest_counted(path: Path) -> None:
    story = Story()
    make_ledger(path, story, [story.opening, *(story.devices[1].noise(500) for _ in range(3))])
    with tampering(path) as file:
        file.execute("UPDATE events SET hash = randomblob(32) WHERE position > 4")
    report = audit(path)
    assert len(report.problems) == REMARKS_MAX + 1
    assert report.problems[-1].what.startswith("and ")
    assert not report.ok


def test_progress_goes_up_to_the_whole(path: Path) -> None:
    story = Story()
    events = make_ledger(path, story, story.frames(400))
    seen: list[int] = []
    audit(path, lambda done, _total: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == len(events)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        audit(tmp_path / "none.db")
    assert caught.value.code == "ledger_missing"


def test_a_larger_body_than_allowed_is_a_problem(path: Path) -> None:
    story = Story()
    frame: list[Event] = story.devices[1].noise(1, size_bytes=70_000)
    make_ledger(path, story, [story.opening, frame])
    assert what(audit(path).problems) == ["its body is larger than the limit"]
    assert len(encode([frame[0].body])) > 70_000
