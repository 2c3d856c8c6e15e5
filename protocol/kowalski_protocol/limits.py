"""Every bound in one place, each with its unit and its reason.

`Limits` holds sizes and counts, which all nodes of a cluster must share (a frame that one node
accepts and another refuses would stop a feed), and `Timers` holds waits, which each node may set
for its network by one of three presets: `local` (one machine, tests), `lan` (a home or a lab; the
default) and `wan` (devices that meet over the internet or a VPN).
"""

from __future__ import annotations

from typing import Final

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Sizes and counts; changing one is a change of the protocol."""

    body_size_bytes_max: int = 64 * 1024
    """An event's body: facts only, payloads travel beside it."""
    attachment_size_bytes_max: int = 64 * 1024
    """Larger payloads and results are blobs: a frame must stay small enough to be sent at once."""
    frame_size_bytes_max: int = 1024 * 1024
    """What a member accepts in one piece; bounds memory per peer and the wait behind one frame."""
    frame_events_max: int = 4096
    """So that checking one frame takes tens of milliseconds at most."""
    frame_cut_bytes: int = 512 * 1024
    """Where an author ends its frame and begins the next; half the maximum, so the last event fits.
    """
    nesting_max: int = 64
    """How deep values may nest: far below what any reader's stack bears, so all readers agree."""
    kind_length_max: int = 64
    """Kinds are names."""
    held_frames_per_author_max: int = 64
    """Frames that wait for a gap to be filled; the pull brings what is dropped."""
    held_size_bytes_max: int = 32 * 1024 * 1024
    """The same, of all authors together."""
    held_s: float = 30.0
    """A gap that was not filled in this time is pulled anew."""
    pull_size_bytes_max: int = 1024 * 1024
    """One answer to a pull; the asker comes back for more."""
    pulls_in_flight_max: int = 4
    """Ranges asked for at once; more only queue at the answering side."""
    datagram_size_bytes_max: int = 16 * 1024
    """A heartbeat of a hundred members with a sample."""
    tasks_open_per_author_max: int = 20_000
    """Unsettled tasks of one submitter; past it submissions are refused with 429."""
    tasks_per_batch_max: int = 10_000
    """One batch call; the command line cuts longer ones."""
    payload_size_bytes_max: int = 64 * 1024
    """A task's payload as sent; larger inputs are blobs named in the payload."""
    result_size_bytes_max: int = 16 * 1024 * 1024
    """A result's value and output; past 64 KiB it travels as a blob."""
    blob_size_bytes_max: int = 64 * 1024 * 1024 * 1024
    """A blob, uploaded or fetched: room for the largest models and archives that one file holds,
    and an end for a member whose blob has none.
    """
    name_length_max: int = 64
    """Characters of a device's name: a host name's part has at most 63, and a name that is longer
    is no help in a table.
    """
    labels_max: int = 32
    """Labels of one task, and of its `requires.labels`: each of these is looked up on every device
    when the task is placed.
    """
    label_length_max: int = 128
    """Characters of a label's key, of its text, and of a tool's, language's or accelerator's name:
    longer than any that people give, and all labels at their longest are 8 KiB of ASCII, a quarter
    of what a task may have besides its payload.
    """
    requires_max: int = 32
    """Entries of `requires`: more than four times the seven that there are, so that releases to
    come have room, and little is read of a task that asks for what does not exist.
    """
    members_max: int = 128
    """Twenty-eight more than promised."""
    device_losses_max: int = 3
    """Different devices that an unfinished task may lose before it is `dead`: it may be what kills
    them.
    """
    losses_max: int = 9
    """The same where it loses fewer devices again and again, as in a cluster of two."""
    attempts_max: int = 100
    """`retry.max_attempts` at most."""
    timeout_s_max: float = 7 * 86400.0
    """A week; longer work is cut into tasks."""
    prefetch_max: int = 512
    """Attempts that may wait on a device, so that a lost device never holds more."""
    recent_hashes_max: int = 8192
    """Event hashes per feed kept in memory to check overlapping frames (512 KiB)."""
    considered_max: int = 8
    """Scores written into a placement: what `why` shows."""


class Timers(msgspec.Struct, frozen=True):
    """Waits of one node, in seconds unless named otherwise."""

    tick_s: float
    """How often the core looks at its deadlines."""
    heartbeat_s: float
    """Between two heartbeats on lanes."""
    gossip_heartbeat_s: float
    """Between two heartbeats on the telemetry topic, for members without a lane."""
    suspect_s: float
    """Silence after which a member is taken for lost; several heartbeats, so that one lost does
    nothing.
    """
    disconnect_grace_s: float
    """How long a closed connection may take to come back before its device is lost."""
    starved_factor: float
    """How much a node that itself was late widens `suspect_s` for others."""
    sample_s: float
    """Between two telemetry samples."""
    replica_wait_s: float
    """How long a submission waits for one more node to hold it."""
    commit_linger_s: float
    """How long events of others wait for more to share their commit where no work waits for it."""
    takeover_wait_s: float
    """How long a new leader listens to the others before its first placement."""
    pull_timeout_s: float
    """How long one answer to a pull, 1 MiB at most, may take before another member is asked: enough
    at 2 Mbit/s with `lan`, at half a megabit with `wan`.
    """
    anti_entropy_s: float
    """Between two comparisons of all heads with one member."""
    lag_s: float
    """How long a feed may be behind what a member says before it is pulled."""
    redial_min_s: float
    """The wait after a first failed dial, doubled after each further one: one heartbeat, since a
    member that has just started again can be reached by then.
    """
    redial_max_s: float
    """The longest wait between two dials of a member that is away: what its return may cost where
    nothing tells of it, against dials in vain (with `lan` 42 a second for 127 absent members).
    """
    started_after_s: float
    """A run longer than this gets its `TaskStarted`; a shorter one is told by its result alone."""
    stop_s: float
    """How long a stopping node lets running work finish."""
    clock_warn_s: float = 30.0
    """Distance from the members' median at which `status` warns."""
    clock_ahead_max_s: float = 30.0
    """How far ahead a reading may be to be merged into the own clock."""
    ageing_s: float = 30.0
    """A waiting task gains one priority each time this passes."""


LAN: Final = Timers(
    tick_s=0.05,
    heartbeat_s=0.25,
    gossip_heartbeat_s=1.0,
    suspect_s=1.0,
    disconnect_grace_s=0.15,
    starved_factor=2.0,
    sample_s=2.0,
    replica_wait_s=0.1,
    commit_linger_s=0.01,
    takeover_wait_s=0.2,
    pull_timeout_s=5.0,
    anti_entropy_s=3.0,
    lag_s=0.1,
    redial_min_s=0.25,
    redial_max_s=3.0,
    started_after_s=0.05,
    stop_s=10.0,
)

LOCAL: Final = msgspec.structs.replace(LAN, disconnect_grace_s=0.05, redial_max_s=2.0)

WAN: Final = msgspec.structs.replace(
    LAN,
    tick_s=0.1,
    heartbeat_s=1.0,
    gossip_heartbeat_s=3.0,
    suspect_s=5.0,
    disconnect_grace_s=1.0,
    takeover_wait_s=1.0,
    pull_timeout_s=20.0,
    anti_entropy_s=15.0,
    lag_s=0.5,
    redial_min_s=1.0,
    redial_max_s=15.0,
)

PRESETS: Final[dict[str, Timers]] = {"local": LOCAL, "lan": LAN, "wan": WAN}
LIMITS: Final = Limits()
