"""Whether a ledger file is what it claims to be, down to every hash and signature.

`audit` trusts nothing in the file. It asks SQLite about its pages, then walks through all events
in order of arrival and checks what anybody could: each feed counts up from 1, each event's hash
covers the one before it, times rise, every signature is the author's, the bytes beside an event
are those that its body names, and some admission in the file let every author in. What is wrong
with the *file* is a problem. What members did wrong, which a sound file faithfully tells, is a
finding: see `fold`.

A problem does not end the walk. A damaged event is put down once and the walk goes on from the
hash that was stored, so that one edited row is one problem and not the rest of its feed; the fold
is given an event of no kind in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from kowalski_protocol.attachments import CARRIERS, named_bytes
from kowalski_protocol.errors import Problem
from kowalski_protocol.feeds import SEQ_MAX, Event, Feed, Verify, event_hash
from kowalski_protocol.identity import is_weak_key, peer_id, verify
from kowalski_protocol.ids import HASH_SIZE_BYTES, Author, ClusterId, EventHash
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.topics import FEED_TOPICS

from .chain import Link
from .file import Progress, open_ledger
from .fold import fold
from .rows import HLC_MASK, SELECT_WHOLE, WholeRow
from .signatures import SignatureCheck
from .state import State

REMARKS_MAX: Final = 1000
"""Problems and findings that are told one by one; the rest are counted."""
_ADMISSIONS_MAX: Final = 100_000
"""Admissions whose right is looked at: far more than a cluster has, for files from elsewhere."""
_STAND_INS_MAX: Final = 1000
"""Missing events of one feed over which the fold is carried."""


class Remark(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where. `author` is a peer ID, empty for the file itself."""

    author: str
    topic: str
    seq: int
    what: str


class AuditReport(msgspec.Struct, frozen=True):
    """What `kowalski audit --json` prints."""

    ok: bool
    """Whether the file is sound; findings do not count."""
    events: int
    signatures: int
    """Signatures that verified."""
    dropped: int
    """Attachments that bodies name and that this file no longer holds."""
    problems: list[Remark]
    findings: list[Remark]


class Remarks:
    """A list of remarks with a bound."""

    def __init__(self) -> None:
        self.count = 0
        self._listed: list[Remark] = []

    def add(self, feed: Feed | None, seq: int, what: str) -> None:
        """Puts one thing down."""
        self.count += 1
        if len(self._listed) < REMARKS_MAX:
            author = peer_id(feed.author) if feed else ""
            self._listed.append(Remark(author, feed.topic if feed else "", seq, what))

    def told(self) -> list[Remark]:
        """The remarks, and how many more there are."""
        more = self.count - len(self._listed)
        return [*self._listed, Remark("", "", 0, f"and {more} more")] if more else self._listed


class _Place(Link):
    """How far one feed was walked, and what else might be the hash there."""

    __slots__ = ("computed", "is_folded")

    def __init__(self, cluster: ClusterId, feed: Feed) -> None:
        super().__init__(cluster, feed)
        self.computed: EventHash | None = None
        self.is_folded = True


class Audit:
    """One walk through a file."""

    def __init__(self, cluster: ClusterId, verifier: Verify) -> None:
        self.problems = Remarks()
        self.findings = Remarks()
        self.events = 0
        self.dropped = 0
        self.cluster = cluster
        self.state = State(cluster)
        self.signatures = SignatureCheck(verifier)
        self._places: dict[int, _Place] = {}
        self._position = -(1 << 63)
        self._admissions: list[tuple[Feed, int]] = []

    def add_feeds(self, rows: Iterable[Any]) -> None:
        """Takes in the file's feeds."""
        seen: set[Feed] = set()
        for id, author, topic in rows:
            if not isinstance(author, bytes) or is_weak_key(author) or topic not in FEED_TOPICS:
                self.problems.add(None, 0, f"feed {id} has an author or a topic that can't be")
                continue
            feed = Feed(Author(author), topic)
            if feed in seen:
                self.problems.add(feed, 0, "the feed is listed twice")
                continue
            seen.add(feed)
            self._places[id] = _Place(self.cluster, feed)

    def add_row(self, row: WholeRow) -> None:
        """Checks one event."""
        position, feed_id, seq, hlc, kind, hash, signature, body, attachment = row
        self.events += 1
        place = self._places.get(feed_id)
        if place is None:
            self.problems.add(None, seq, f"row {position} belongs to no feed of the file")
            return
        feed = place.feed
        if position <= self._position:
            self.problems.add(feed, seq, "the rows are out of order")
            return
        self._position = position
        if not self._follows(place, seq):
            return
        hlc &= HLC_MASK
        event = Event(feed.author, feed.topic, seq, hlc, kind, body, EventHash(hash))
        wrong = self._wrong_with(place, event)
        place.seq, place.hash = seq, event.hash
        place.is_signed = signature is not None
        if wrong is None:
            place.hlc = hlc
        else:
            self.problems.add(feed, seq, wrong)
            event = _stand_in(feed, seq)
        if signature is not None:
            self.signatures.add(feed, seq, signature, place.hash)
        if place.is_folded:
            fold(self.state, event)
        if wrong is None and (attachment is not None or kind in CARRIERS):
            self._check_attachment(feed, event, attachment)
        if event.kind == "MemberAdmitted" and len(self._admissions) < _ADMISSIONS_MAX:
            self._admissions.append((feed, seq))

    def _follows(self, place: _Place, seq: int) -> bool:
        expected = place.seq + 1
        if seq == expected:
            return True
        if not expected < seq <= SEQ_MAX:
            self.problems.add(place.feed, seq, f"it stands where {expected} should")
            return False
        missing = f"event {expected} is" if seq == expected + 1 else f"{expected} to {seq - 1} are"
        self.problems.add(place.feed, expected, f"{missing} missing")
        # The chain is not known here; it is taken up again behind this event.
        place.computed, place.hash = None, EventHash(b"")
        if seq - expected > _STAND_INS_MAX:
            place.is_folded = False
        elif place.is_folded:
            for gone in range(expected, seq):
                fold(self.state, _stand_in(place.feed, gone))
        return True

    def _wrong_with(self, place: _Place, event: Event) -> str | None:
        prev, other = place.hash, place.computed
        place.computed = None
        if not 1 <= len(event.kind) <= LIMITS.kind_length_max or not event.kind.isascii():
            return "its kind is no name"
        if prev and not _matches(event, prev) and not (other and _matches(event, other)):
            place.computed = event_hash(prev, event.seq, event.hlc, event.kind, event.body)
            if len(event.hash) != HASH_SIZE_BYTES:
                return "its hash has not the size of one"
            return "it does not match its hash"
        if event.hlc <= place.hlc:
            return "its time does not rise"
        if len(event.body) > LIMITS.body_size_bytes_max:
            return "its body is larger than the limit"
        return None

    def _check_attachment(self, feed: Feed, event: Event, attachment: bytes | None) -> None:
        named = named_bytes(event.kind, event.body)
        if attachment is None:
            if named is not None and named.size_bytes <= LIMITS.attachment_size_bytes_max:
                self.dropped += 1
        elif named is None:
            self.findings.add(feed, event.seq, "bytes beside it that its body does not name")
        elif not named.matches(attachment):
            self.problems.add(feed, event.seq, "the bytes beside it are not those that it names")

    def finish_signatures(self) -> None:
        """Waits for the signatures that are being checked."""
        for feed, seq in self.signatures.finish():
            self.problems.add(feed, seq, "its signature is not the author's")

    def finish(self) -> None:
        """Checks what only the whole file can show."""
        if self.events and self.state.founder is None:
            self.problems.add(None, 0, "no event founds the cluster that the file names")
        for place in self._places.values():
            if not place.is_signed:
                what = "no signature covers it: the end of its frame is missing"
                self.problems.add(place.feed, place.seq, what)
            if place.seq == 0:
                self.problems.add(place.feed, 0, "the feed is listed and has no events")
            elif place.feed.author not in self.state.members:
                self.problems.add(place.feed, 1, "nothing in the file admitted this author")

    def report(self) -> AuditReport:
        """What was found."""
        for finding in self.state.findings:
            feed = Feed(finding.author, finding.topic)
            self.findings.add(feed, finding.seq, finding.what)
        for feed, seq in self._admissions:
            admitter = self.state.members.get(feed.author)
            if admitter is None or admitter.role != "admin":
                self.findings.add(feed, seq, "an admission by one who is no admin")
        return AuditReport(
            ok=self.problems.count == 0,
            events=self.events,
            signatures=self.signatures.good,
            dropped=self.dropped,
            problems=self.problems.told(),
            findings=self.findings.told(),
        )


def _matches(event: Event, prev: EventHash) -> bool:
    return event.hash == event_hash(prev, event.seq, event.hlc, event.kind, event.body)


def _stand_in(feed: Feed, seq: int) -> Event:
    return Event(feed.author, feed.topic, seq, 0, "", b"", EventHash(bytes(HASH_SIZE_BYTES)))


def audit(
    path: Path, progress: Progress | None = None, *, verifier: Verify = verify
) -> AuditReport:
    """Checks a whole ledger file. Raises `Problem` only where there is no ledger to check."""
    walk = Audit(ClusterId(bytes(HASH_SIZE_BYTES)), verifier)
    try:
        with open_ledger(path, is_lenient=True) as file:
            cluster = file.cluster()
            if cluster is not None:
                walk = Audit(cluster, verifier)
            elif file.count:
                walk.problems.add(None, 0, "the file names no cluster")
            for line in file.integrity():
                walk.problems.add(None, 0, f"SQLite: {line}")
            walk.add_feeds(file.execute("SELECT id, author, topic FROM feeds"))
            for rows in file.chunks(SELECT_WHOLE, progress):
                for row in _typed(rows, walk.problems):
                    walk.add_row(row)
            walk.finish()
    except Problem as problem:
        if problem.code != "ledger_corrupt":
            raise
        walk.problems.add(None, 0, problem.sentence)
    finally:
        walk.finish_signatures()
        walk.signatures.close()
    return walk.report()


def _typed(rows: list[Any], problems: Remarks) -> list[WholeRow]:
    """The rows whose columns have the table's types."""
    try:
        return msgspec.convert(rows, list[WholeRow], builtin_types=(bytes,))
    except msgspec.ValidationError:
        pass
    typed: list[WholeRow] = []
    for row in rows:
        try:
            typed.append(msgspec.convert(row, WholeRow, builtin_types=(bytes,)))
        except msgspec.ValidationError as error:
            problems.add(None, 0, f"row {row[0]!r}: {error}")
    return typed
