"""The one place where any error of libp2p becomes one of ours, and where the node's own stop.

libp2p raises what its parts raise: its own errors of a dozen families, the Noise library's, the
cipher's, protobuf's, `OSError`, `KeyError` from its tables, all of them reachable by what a peer
sends. Two of its habits make that dangerous: an exception that leaves a stream handler cancels
the whole swarm, one that leaves a gossip message's task cancels all of pubsub. So whatever enters
libp2p for a peer's sake goes through `attempt`, and what the node does for a peer through `told`
and `asked`, which log a mistake of ours with all its details where libp2p would have ended the
network. These are the only broad `except`s.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import trio

from .interface import NetworkError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

logger = logging.getLogger("kowalski.network")


def _deadline(timeout_s: float | None) -> AbstractContextManager[object]:
    return nullcontext() if timeout_s is None else trio.fail_after(timeout_s)


async def attempt(
    what: str,
    timeout_s: float | None,
    action: Callable[Parameters, Awaitable[Result]],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Result:
    """What `action` of libp2p's returns. Raises NetworkError for any failure, and when time is
    up."""
    try:
        with _deadline(timeout_s):
            return await action(*args, **kwargs)
    except trio.TooSlowError:
        raise NetworkError(f"{what}: took longer than {timeout_s} s") from None
    except NetworkError:
        raise
    except Exception as error:  # guard: libp2p has no narrower family, see above
        raise NetworkError(f"{what}: {type(error).__name__}: {error}") from error


async def asked(
    what: str,
    timeout_s: float,
    action: Callable[Parameters, Awaitable[Result]],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Result:
    """What the node's `action` returns. A mistake of ours is logged and becomes a NetworkError."""
    try:
        with _deadline(timeout_s):
            return await action(*args, **kwargs)
    except trio.TooSlowError:
        raise NetworkError(f"{what}: the node took longer than {timeout_s} s") from None
    except NetworkError:
        raise
    except Exception as error:  # guard: a mistake of ours, logged; libp2p would end the network
        logger.exception("%s failed", what)
        raise NetworkError(f"{what}: {type(error).__name__}") from error


def told(
    what: str,
    action: Callable[Parameters, None],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> None:
    """Runs a callback of the node's; a mistake of ours is logged."""
    try:
        action(*args, **kwargs)
    except Exception:  # guard: a mistake of ours, logged; libp2p would end the network
        logger.exception("%s failed", what)
