"""The bounds of the HTTP door: sizes, counts and waits, each with its unit and its reason.

They belong to one node and not to the protocol (two nodes may differ), so they stand here rather
than among `kowalski_protocol.limits`. Waiting is always for progress: a client that sends or takes
nothing is cut off, a slow one that keeps a minimum pace is served to the end.
"""

from __future__ import annotations

from typing import Final

import msgspec


class HttpBounds(msgspec.Struct, frozen=True):
    """What the server grants a client."""

    connections_max: int = 256
    """Also the requests in flight, since a connection carries one at a time. Past it the oldest
    connection without a request makes room; where all are in use the newcomer is told to come
    back."""
    refusals_max: int = 32
    """Newcomers being told so at once: each is a task for `linger_s`, and a flood must not get as
    many as it likes; further ones are closed without a word."""
    head_size_bytes_max: int = 16 * 1024
    """Request line and headers; browsers with many cookies send about 8 KiB."""
    head_s: float = 10.0
    """For a whole head, from its first byte (or from the start of the connection): it is one packet
    or two, so this is time for a bad link and no more for those who send a byte now and then."""
    idle_s: float = 75.0
    """A kept-alive connection without a request: longer than the minute that clients and proxies
    commonly keep theirs, so that it is they who close and no request meets a closing server."""
    body_grace_s: float = 10.0
    """A body may stall this long; then it must have come at `body_rate_bytes_s_min` on average."""
    body_rate_bytes_s_min: int = 16 * 1024
    """Slower than any working link; one byte a second would hold a connection for days."""
    send_s: float = 30.0
    """For the client to take one piece of `send_piece_bytes`: 9 KiB a second, on any link."""
    send_piece_bytes: int = 256 * 1024
    """What is handed to the socket at a time: so small that progress shows within `send_s`, so
    large that a blob on the loopback costs few calls."""
    linger_s: float = 1.0
    """After an early answer: how long the rest of a refused body is read away, so that the client
    gets to see the answer rather than a reset."""
    stop_s: float = 2.0
    """What requests in flight get when the node stops: most take milliseconds, and a stop must not
    wait for those that wait for a task. Streams end at once."""
    task_body_bytes_max: int = 1024 * 1024
    """One task: 64 KiB of payload, written in JSON's worst case of six characters a byte, and its
    options."""
    batch_body_bytes_max: int = 16 * 1024 * 1024
    """One batch; decoding it holds the loop for about 50 ms, well below a missed heartbeat."""
    small_body_bytes_max: int = 64 * 1024
    """Every other body: the longest, a list of `page_max` ids, is 35 KiB."""
    wait_s_max: float = 600.0
    """One request's wait for a task, so that a forgotten one ends; who waits longer asks again."""
    watch_after_s: float = 1.0
    """A wait longer than this looks out for the client's hanging up; shorter ones aren't worth a
    task."""
    keep_alive_s: float = 15.0
    """Between two comments on a quiet event stream: below the idle limits of common proxies."""
    page_max: int = 1000
    """Tasks in one page of a listing, or asked for in one request: it bounds what one answer costs
    the node, in time and in memory."""
    results_size_bytes: int = 8 * 1024 * 1024
    """Where an answer with many results ends, half the largest result: it is made in memory before
    it is sent, for each who asks at once. What doesn't fit comes with the next."""
    results_look_s: float = 0.25
    """Between two looks at many tasks of which none has settled: one of them wakes the request,
    and any other is told at most so much later."""
    retry_after_s: int = 1
    """What a client that was refused for load is told to wait: the header's smallest step, since
    room comes within milliseconds once tasks settle."""


BOUNDS: Final = HttpBounds()
