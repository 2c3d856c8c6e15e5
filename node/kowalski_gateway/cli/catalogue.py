"""Which commands there are: one sentence each, by section, and the file that has the rest.

The only thing that `kowalski --help` reads. A command takes its summary from here, so that the two
can't differ.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """One command."""

    section: str
    module: str
    summary: str


WORK: Final = "Work"
CLUSTER: Final = "Cluster"
LEDGER: Final = "Ledger"
DEVICE: Final = "This device"
SECTIONS: Final = (WORK, CLUSTER, LEDGER, DEVICE)

COMMANDS: Final[dict[str, Entry]] = {
    "submit": Entry(WORK, "submit", "Submit a task, and with --wait show what comes of it."),
    "batch": Entry(WORK, "batch", "Submit a file of tasks and collect their results."),
    "tasks": Entry(WORK, "tasks", "List tasks, newest first."),
    "result": Entry(WORK, "tasks", "Show a task's result."),
    "cancel": Entry(WORK, "tasks", "End a task wherever it runs."),
    "why": Entry(WORK, "tasks", "Tell the story of a task from the ledger."),
    "sessions": Entry(WORK, "sessions", "List the sessions whose interpreters are kept."),
    "logs": Entry(WORK, "logs", "Show what a task prints, or the ledger's events."),
    "status": Entry(CLUSTER, "cluster", "Show the cluster: leader, devices, tasks, warnings."),
    "devices": Entry(CLUSTER, "cluster", "List the cluster's devices and what they offer."),
    "invite": Entry(CLUSTER, "invite", "Let one more device in: prints a token and a QR code."),
    "weights": Entry(CLUSTER, "weights", "Show or change how much each placement factor counts."),
    "replay": Entry(LEDGER, "ledger", "Compute the state anew from a ledger file."),
    "audit": Entry(LEDGER, "ledger", "Check every chain, hash and signature of a ledger file."),
    "export": Entry(LEDGER, "ledger", "Write a ledger's events to a file of JSON lines."),
    "doctor": Entry(DEVICE, "doctor", "Check this device and say what to mend."),
    "demo": Entry(DEVICE, "showcase", "Run a cluster on this device and break it on purpose."),
    "bench": Entry(DEVICE, "showcase", "Measure this device's figures."),
    "completion": Entry(DEVICE, "completion", "Print the completion script for a shell."),
}

TO_COME: Final = frozenset(
    {
        "admit",
        "chat",
        "checkpoint",
        "config",
        "drain",
        "forget",
        "leave",
        "pause",
        "pending",
        "recall",
        "remember",
        "remove",
        "resume",
        "rlm",
        "service",
        "top",
    }
)
"""Commands that the contract names and later work builds: answered as such, not as a mistake."""
