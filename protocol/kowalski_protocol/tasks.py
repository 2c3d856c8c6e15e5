"""What a task is, and the door through which one comes in.

People and programs hand in a JSON object; `parse_task` turns it into a `TaskSpec`, which is what
the submitter signs, and the payload's bytes, which travel beside it. Everything that the contract
names and this release does not do yet is refused by name: an option that was accepted and ignored
would be a promise broken in silence. What can be said without knowing the cluster is said here;
whether any device could run the task is placement's question.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import structs

from .codec import decode_stored, encode, nests_too_deep
from .errors import Problem
from .identity import author_of
from .ids import HASH_SIZE_BYTES, TASK_ID_SIZE_BYTES, Author, TaskId
from .limits import LIMITS, Limits
from .task_files import check_files

_ID_DOMAIN: Final = b"kowalski/task/1"
_MEMO_DOMAIN: Final = b"kowalski/memo/1"

KINDS: Final = ("code", "tool", "graph")
KINDS_TO_COME: Final = ("chat", "embed", "memory", "rlm")
KINDS_THAT_WAIT: Final = frozenset({"graph"})
"""Their attempts only wait for their children, so they take none of a device's slots."""
LANGUAGE_ALIASES: Final = {
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "node": "javascript",
    "sh": "bash",
    "zsh": "bash",
    "rs": "rust",
}
PRIORITY_MAX: Final = 100
TIMEOUT_S: Final = 300.0
"""Of an attempt, where the task says none; one that waits for others may take as long as any."""
STEP_LENGTH_MAX: Final = 128
BACKOFF_S_MAX: Final = 86400.0
KEY_SIZE_BYTES: Final = 16
KEY_LENGTH_MAX: Final = 256
KEY_SIZE_BYTES_MAX: Final = 1 + 4 * KEY_LENGTH_MAX
"""A key as hashed: one byte that tells its sort, then as many as its characters may take."""
SESSION_LANGUAGES: Final = ("python", "bash")
"""Those whose interpreter can be kept between the cells of a session."""
FAILOVERS: Final = ("redistribute", "fail", "queue")
DEVICE_FILTERS: Final = ("local", "network", "all")

Failover = Literal["redistribute", "fail", "queue"]
DeviceFilter = Literal["local", "network", "all"]


class TaskSpec(msgspec.Struct, frozen=True, array_like=True):
    """What was asked for, as the submitter signed it. New fields are added at the end, with a
    default.
    """

    kind: str
    need: str
    """The language of a `code` task, the tool of a `tool` task."""
    payload_hash: bytes
    payload_size_bytes: int
    requires: dict[str, Any] = {}
    priority: int = 0
    timeout_s: float = 300.0
    max_attempts: int = 1
    backoff_s: float = 1.0
    jitter: float = 0.1
    failover: str = "redistribute"
    device_filter: str = "all"
    labels: dict[str, str] = {}
    trace: str = ""
    session: str = ""
    """The session whose interpreter runs this `code` task as its next cell; empty for none."""
    parent: bytes = b""
    """Of a child: the task of whose attempt it is a step."""
    step: str = ""
    memo: bytes = b""
    """Of a child: what tells that a later attempt of its parent asks for the same step again."""
    hedge: bool = False
    """Whether it may run on two devices at once: the submitter says that this does no harm."""


class Submission(msgspec.Struct, frozen=True):
    """A task ready to be written: what is signed and what rides beside it."""

    spec: TaskSpec
    spec_bytes: bytes
    payload: bytes
    key: bytes | None
    """The idempotency key as hashed; None where the node draws one."""
    owner: Author | None
    """The owner that the submitter asked for; None where the node chooses."""


def task_id(owner: bytes, key: bytes, spec: bytes) -> TaskId:
    """A task's id: the first 16 bytes of SHA-256 over (owner, key, encoded spec)."""
    head = _ID_DOMAIN + owner + len(key).to_bytes(2, "big") + key
    return TaskId(hashlib.sha256(head + spec).digest()[:TASK_ID_SIZE_BYTES])


def again(spec: TaskSpec, payload: bytes) -> Submission:
    """A task as it was submitted once, to be submitted once more: on its own, were it a child."""
    spec = structs.replace(spec, parent=b"", step="", memo=b"")
    return Submission(spec, encode(spec), payload, None, None)


def child_key(attempt: bytes, memo: bytes) -> bytes:
    """The key under which an attempt submits a step: the same step twice is one task."""
    return b"c" + attempt + memo[:KEY_SIZE_BYTES]


def parent_attempt(key: bytes) -> bytes:
    """The attempt that submitted a child, from the child's key; empty where it is no child's."""
    is_child = key[:1] == b"c" and len(key) == 1 + HASH_SIZE_BYTES + KEY_SIZE_BYTES
    return key[1 : 1 + HASH_SIZE_BYTES] if is_child else b""


def as_child(submission: Submission, parent: bytes, lineage: bytes, step: str) -> Submission:
    """A submission as a step of a task.

    Args:
      parent: the id of the task.
      lineage: the task's own memo, or where it is no child its id: a step of one that was issued
        again is then the same step.
      step: the step's name, unique in an attempt.
    """
    name = step.encode()
    head = _MEMO_DOMAIN + bytes((len(lineage),)) + lineage + len(name).to_bytes(2, "big") + name
    memo = hashlib.sha256(head + submission.spec_bytes).digest()
    spec = structs.replace(submission.spec, parent=parent, step=step, memo=memo)
    return structs.replace(submission, spec=spec, spec_bytes=encode(spec), key=None, owner=None)


_FIELDS: Final = frozenset(
    {
        "kind",
        "payload",
        "requires",
        "priority",
        "timeout_s",
        "retry",
        "failover",
        "delivery",
        "owner",
        "idempotency_key",
        "device_filter",
        "labels",
        "durability",
        "trace",
        "session",
        "hedge",
        "private",
        "secrets",
        "after",
        "parent",
    }
)
REQUIREMENTS: Final = frozenset(
    {"device", "memory_mb", "cores", "accelerator", "labels", "platform", "sandbox"}
)


_TO_COME: Final[dict[str, tuple[Any, ...]]] = {
    "after": (None, []),
    "parent": (None,),
    "private": (None, False),
    "secrets": (None, []),
    "delivery": (None, "at_least_once"),
    "durability": (None, 1),
}
"""Fields that the contract names and later work builds, with the values that ask for nothing of
them.
"""


def _bad(sentence: str) -> Problem:
    return Problem("bad_request", sentence)


def _refuse_what_is_to_come(task: Mapping[str, Any]) -> None:
    for field, harmless in _TO_COME.items():
        if task.get(field) not in harmless:
            raise Problem(
                "not_supported",
                f"'{field}' with this value is not built in this release, so the task is refused"
                " rather than run without it.",
            )


def _number(
    value: Any, name: str, low: float, high: float, *, whole: bool = False, open_low: bool = False
) -> float:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _bad(f"'{name}' must be a {'whole ' if whole else ''}number.")
    # Compared as it is: a whole number of any length has an order, but no float need hold it.
    if not low <= value <= high or (open_low and value == low):
        raise _bad(f"'{name}' must be between {low:g} and {high:g}.")
    return value


def _is_text(value: Any, length_max: int) -> bool:
    """Whether this is a text that can be written down: half a surrogate pair can't."""
    if not isinstance(value, str) or len(value) > length_max:
        return False
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _text(value: Any, name: str, length_max: int) -> str:
    if not _is_text(value, length_max) or not value:
        raise _bad(f"'{name}' must be a text of 1 to {length_max} characters.")
    return value


def _is_json(value: Any) -> bool:
    """Whether JSON can say this; nesting is judged on its encoded form."""
    if isinstance(value, str):
        return _is_text(value, len(value))
    if value is None or isinstance(value, int):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        entries: dict[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return all(isinstance(k, str) and _is_json(k) and _is_json(v) for k, v in entries.items())
    return isinstance(value, list | tuple) and all(map(_is_json, value))  # pyright: ignore[reportUnknownArgumentType]


def _payload_bytes(payload: Mapping[str, Any]) -> bytes:
    try:
        if _is_json(payload):
            data = encode(payload)
            if not nests_too_deep(data):
                return data
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    raise _bad("'payload' holds something that JSON can't say, or is nested too deep.")


def _one_of(value: Any, name: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise _bad(f"'{name}' must be one of {', '.join(choices)}.")
    return value


def _labels(value: Any, name: str, limits: Limits) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > limits.labels_max:  # pyright: ignore[reportUnknownArgumentType]
        raise _bad(f"'{name}' must be an object of at most {limits.labels_max} texts.")
    labels: dict[str, str] = {}
    for key, text in value.items():  # pyright: ignore[reportUnknownVariableType]
        if not _is_text(text, limits.label_length_max):
            raise _bad(f"'{name}' holds texts of at most {limits.label_length_max} characters.")
        labels[_text(key, name, limits.label_length_max)] = text
    return labels


def _requires(value: Any, limits: Limits) -> dict[str, Any]:
    if not isinstance(value, Mapping) or len(value) > limits.requires_max:  # pyright: ignore[reportUnknownArgumentType]
        raise _bad(f"'requires' must be an object of at most {limits.requires_max} entries.")
    requires: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
    for name, wanted in requires.items():
        if name not in REQUIREMENTS:
            shown = str(name)[:40]
            raise _bad(f"'requires' has no {shown!r}; it knows {', '.join(sorted(REQUIREMENTS))}.")
        if name == "device" and (not isinstance(wanted, str) or author_of(wanted) is None):
            raise _bad("'requires.device' must be a peer ID.")
        if name in ("memory_mb", "cores"):
            _number(wanted, f"requires.{name}", 0, 1e9)
        if name in ("accelerator", "platform", "sandbox"):
            _text(wanted, f"requires.{name}", limits.label_length_max)
        if name == "labels":
            requires[name] = _labels(wanted, "requires.labels", limits)
    return requires


def _need(kind: str, payload: Mapping[str, Any], limits: Limits) -> str:
    if kind == "graph":
        from .graphs import read_graph  # it reads its tasks with `parse_task`

        read_graph(payload)
        return kind
    if kind == "tool":
        if not isinstance(payload.get("args", {}), Mapping):
            raise _bad("'payload.args' must be an object.")
        return _text(payload.get("tool"), "payload.tool", limits.label_length_max)
    language = _text(payload.get("language"), "payload.language", limits.label_length_max)
    if not isinstance(payload.get("code"), str):
        raise _bad("'payload.code' must be a text.")
    check_files(payload)
    return LANGUAGE_ALIASES.get(language, language)


def _kind(value: Any) -> str:
    if value in KINDS:
        return value
    if value in KINDS_TO_COME:
        raise Problem("not_supported", f"Tasks of kind '{value}' are not built in this release.")
    shown = value[:40] if isinstance(value, str) else type(value).__name__
    raise Problem("unknown_kind", f"There is no task kind {shown!r}; there are {', '.join(KINDS)}.")


def _session(value: Any, kind: str, need: str, payload: Mapping[str, Any], limits: Limits) -> str:
    if value is None:
        return ""
    if not _may_have_session(kind, need):
        languages = " and ".join(SESSION_LANGUAGES)
        raise _bad(f"'session' is for code tasks in {languages}, and this is {kind} {need[:40]}.")
    for field in ("args", "env", "stdin", "inputs", "outputs"):
        if payload.get(field):
            raise _bad(f"'payload.{field}' is for programs of their own, and not for a session.")
    return _text(value, "session", limits.label_length_max)


def _may_have_session(kind: str, need: str) -> bool:
    return kind == "code" and need in SESSION_LANGUAGES


def _hedge(value: Any, kind: str, session: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad("'hedge' must be true or false.")
    if value and not _may_be_hedged(kind, session):
        what = "a cell of a session" if session else f"a {kind}"
        raise _bad(f"'hedge' is for tasks that stand alone, and this is {what}.")
    return value


def _may_be_hedged(kind: str, session: Any) -> bool:
    return not session and kind not in KINDS_THAT_WAIT


def _retry(value: Any, limits: Limits) -> tuple[int, float, float]:
    if not isinstance(value, Mapping) or set(value) - {"max_attempts", "backoff_s", "jitter"}:  # pyright: ignore[reportUnknownArgumentType]
        raise _bad("'retry' must be an object of max_attempts, backoff_s and jitter.")
    retry: Mapping[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    attempts = _number(
        retry.get("max_attempts", 1), "retry.max_attempts", 1, limits.attempts_max, whole=True
    )
    backoff = _number(retry.get("backoff_s", 1.0), "retry.backoff_s", 0, BACKOFF_S_MAX)
    jitter = _number(retry.get("jitter", 0.1), "retry.jitter", 0, 1)
    return int(attempts), float(backoff), float(jitter)


def parse_task(task: Mapping[str, Any], limits: Limits = LIMITS) -> Submission:
    """Turns a task as handed in into a submission; raises `Problem` with the reason it can't be."""
    unknown = set(task) - _FIELDS
    if unknown:
        raise _bad(f"A task has no field {sorted(map(str, unknown))[0][:40]!r}.")
    kind = _kind(task.get("kind"))
    _refuse_what_is_to_come(task)
    payload = task.get("payload")
    if not isinstance(payload, Mapping):
        raise _bad("'payload' must be an object.")
    need = _need(kind, payload, limits)  # pyright: ignore[reportUnknownArgumentType]
    payload_bytes = _payload_bytes(payload)  # pyright: ignore[reportUnknownArgumentType]
    if len(payload_bytes) > limits.payload_size_bytes_max:
        raise Problem(
            "spec_too_large",
            f"The payload is {len(payload_bytes):,} bytes; the limit is"
            f" {limits.payload_size_bytes_max:,}. Put large inputs into a blob and name its hash.",
        )
    attempts, backoff_s, jitter = _retry(task.get("retry") or {}, limits)
    key: Any = task.get("idempotency_key")
    owner: Any = task.get("owner")
    spec = TaskSpec(
        kind=kind,
        need=need,
        payload_hash=hashlib.sha256(payload_bytes).digest(),
        payload_size_bytes=len(payload_bytes),
        requires=_requires(task.get("requires") or {}, limits),
        priority=int(
            _number(task.get("priority", 0), "priority", -PRIORITY_MAX, PRIORITY_MAX, whole=True)
        ),
        timeout_s=float(
            _number(
                task.get("timeout_s", _timeout_s(kind, limits)),
                "timeout_s",
                0,
                limits.timeout_s_max,
                open_low=True,
            )
        ),
        max_attempts=attempts,
        backoff_s=backoff_s,
        jitter=jitter,
        failover=_one_of(task.get("failover", "redistribute"), "failover", FAILOVERS),
        device_filter=_one_of(task.get("device_filter", "all"), "device_filter", DEVICE_FILTERS),
        labels=_labels(task.get("labels") or {}, "labels", limits),
        trace=_text(task["trace"], "trace", 256) if task.get("trace") else "",
        session=_session(task.get("session"), kind, need, payload, limits),  # pyright: ignore[reportUnknownArgumentType]
        hedge=_hedge(task.get("hedge", False), kind, task.get("session")),
    )
    spec_bytes = encode(spec)
    if len(spec_bytes) > limits.body_size_bytes_max // 2:
        raise Problem("spec_too_large", "The task without its payload is larger than 32 KiB.")
    return Submission(
        spec=spec,
        spec_bytes=spec_bytes,
        payload=payload_bytes,
        key=None if key is None else b"k" + _text(key, "idempotency_key", KEY_LENGTH_MAX).encode(),
        owner=None if owner is None else _owner(owner),
    )


def _timeout_s(kind: str, limits: Limits) -> float:
    return limits.timeout_s_max if kind in KINDS_THAT_WAIT else TIMEOUT_S


def _owner(value: Any) -> Author:
    author = author_of(value) if isinstance(value, str) else None
    if author is None:
        raise _bad("'owner' must be a peer ID.")
    return author


_spec_decoder: Final = msgspec.msgpack.Decoder(TaskSpec)


def decode_spec(data: bytes) -> TaskSpec | None:
    """The spec of a `TaskSubmitted`; None where it can't be read or acted on. Never raises."""
    spec = decode_stored(data, _spec_decoder)
    return spec if spec is not None and _is_sound(spec, LIMITS) else None


def _is_sound(spec: TaskSpec, limits: Limits) -> bool:
    """Whether a spec keeps the bounds of `parse_task`: not every member that signs one used it.

    A requirement of an unknown name is left to placement, which gives the task to nobody.
    """
    if spec.requires:
        known = {name: v for name, v in spec.requires.items() if name in REQUIREMENTS}
        try:
            _requires(known, limits)
        except Problem:
            return False
    return (
        0 < spec.timeout_s <= limits.timeout_s_max
        and 1 <= spec.max_attempts <= limits.attempts_max
        and 0 <= spec.backoff_s <= BACKOFF_S_MAX
        and 0 <= spec.jitter <= 1
        and abs(spec.priority) <= PRIORITY_MAX
        and spec.failover in FAILOVERS
        and spec.device_filter in DEVICE_FILTERS
        and (not spec.session or _may_have_session(spec.kind, spec.need))
        and len(spec.session) <= limits.label_length_max
        and (not spec.hedge or _may_be_hedged(spec.kind, spec.session))
        and len(spec.step) <= STEP_LENGTH_MAX
        and (len(spec.parent), len(spec.memo))
        in ((0, 0), (TASK_ID_SIZE_BYTES, hashlib.sha256().digest_size))
    )
