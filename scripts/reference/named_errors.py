"""The errors that the specification names, each with the codes that tell of it here."""

from __future__ import annotations

from typing import Final, NamedTuple


class Named(NamedTuple):
    """An error type of the specification."""

    name: str
    codes: tuple[str, ...]
    """Of `CODES`; empty where nothing of this sort is told."""
    when: str


NAMED: Final = (
    Named(
        "ExecutionError",
        (
            "code_failed",
            "tool_failed",
            "graph_failed",
            "out_of_memory",
            "output_too_large",
            "executor_failed",
        ),
        "what the task asked for ended with an error; stderr and the last line of it stand in the"
        " result",
    ),
    Named(
        "NoDevicesAvailable",
        (
            "impossible_requirement",
            "unknown_language",
            "unknown_tool",
            "sandbox_unavailable",
            "not_ready",
        ),
        "no member could ever run the task: it is refused when it is submitted. A task that some"
        " member can run, though not now, waits, and says for what; so does any with `failover:"
        " queue`",
    ),
    Named(
        "DeviceFailed",
        ("device_lost",),
        "the device was lost while it ran the task, and `failover: fail` forbids another one, or"
        " too many were lost by it. Otherwise it runs elsewhere, and the loss stands in `kowalski"
        " why`",
    ),
    Named(
        "DeviceNotFound",
        ("impossible_requirement",),
        "`requires.device` is no member. `kowalski submit --device NAME` says so itself, with exit"
        " code 2",
    ),
    Named(
        "NetworkError",
        ("node_unreachable", "bad_answer", "no_inviter"),
        "no node answers at the address of the API, or what answers is none; the inviter can't be"
        " reached. What is lost between members is repaired and no error",
    ),
    Named(
        "DiscoveryTimeout",
        (),
        "there is none, and nothing to wait for: a device that finds no other goes on looking, and"
        " is a cluster of one meanwhile",
    ),
    Named(
        "REPLError",
        ("code_failed", "interpreter_lost", "session_lost"),
        "a cell of a session failed; it ended the interpreter; its session can't be made anew",
    ),
    Named(
        "REPLTimeout",
        ("timed_out",),
        "the program or the cell ran for longer than `timeout_s`",
    ),
    Named(
        "ContextFoldingError",
        ("not_supported",),
        "context folding is not built in this release: the task kind that it belongs to, `rlm`, is"
        " refused by name",
    ),
    Named(
        "ConfigError",
        (
            "bad_request",
            "token_required",
            "home_unusable",
            "home_locked",
            "key_exposed",
            "port_busy",
        ),
        "a flag, a variable or `config.toml` holds what the node can't use; the home folder or the"
        " port can't be used. The node does not start",
    ),
)
"""The variants of `RLMError`, in the order of the specification."""
