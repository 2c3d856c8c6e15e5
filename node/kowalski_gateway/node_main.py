"""`kowalski-node`: runs this device's node in the foreground.

Here all layers meet: the options are read (flag, then environment, then config.toml, then default),
the executors and the API are handed to the node, and signals become an orderly end. What a person
sees at start is where the API is, who the device is, and, once, the recovery code of a new cluster.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from kowalski_node import __version__
from kowalski_protocol.errors import Problem

if TYPE_CHECKING:
    from kowalski_node.options import Given, NodeOptions

API_DEFAULT = "127.0.0.1:52420"
PORTS_TRIED = 50
"""From the default on: more nodes than a device has use for, found in a moment."""


class _Parser(argparse.ArgumentParser):
    """Tells wrong usage as every other problem is told."""

    def error(self, message: str) -> NoReturn:
        sentence = f"{message[:1].upper()}{message[1:].rstrip('.')}."
        raise Problem("bad_request", sentence, mend="kowalski-node --help")


def parser() -> argparse.ArgumentParser:
    """The command line of `kowalski-node`. Parsing raises `Problem` for wrong usage."""
    p = _Parser(
        prog="kowalski-node",
        description="Run this device's Kowalski node in the foreground.",
        epilog="Every option may also stand in HOME/config.toml (listen = [...], slots = 4) or in"
        " the environment (KOWALSKI_SLOTS=4). Flags win over the environment, that over the file.",
    )
    p.add_argument(
        "--version",
        action="version",
        version=f"kowalski-node {__version__}",
        help="print the release and exit",
    )
    p.add_argument("--home", metavar="DIR", help="folder of key, ledger and blobs (KOWALSKI_HOME)")
    p.add_argument("--name", help="what people call this device (default: its host name)")
    p.add_argument(
        "--listen",
        metavar="MULTIADDR",
        action="append",
        help="where to listen for members; may be repeated (default: TCP 52421 on all interfaces,"
        " or the next free port)",
    )
    p.add_argument(
        "--peer",
        metavar="ADDR",
        action="append",
        help="where a member may be: HOST, HOST:PORT or MULTIADDR; may be repeated",
    )
    p.add_argument("--join", metavar="TOKEN", help="join the cluster that made this invite")
    p.add_argument(
        "--api", metavar="HOST:PORT", help=f"where to serve the API (default: {API_DEFAULT})"
    )
    p.add_argument("--api-token", metavar="T", help="ask for this token; needed off the loopback")
    p.add_argument("--slots", metavar="N", help="runs at a time (default: cores)")
    p.add_argument(
        "--label",
        metavar="K=V",
        action="append",
        help="a label of the device: home=yes, leader=never, or any of yours",
    )
    p.add_argument(
        "--run", metavar="KIND,...", help="take only tasks of these kinds (default: all it can)"
    )
    p.add_argument(
        "--cost",
        metavar="KIND=N",
        action="append",
        help="what a run of a kind costs here, for placement",
    )
    p.add_argument("--no-mdns", action="store_true", default=None, help="do not use LAN discovery")
    p.add_argument("--model-server", metavar="URL", action="append", help=argparse.SUPPRESS)
    p.add_argument(
        "--unsandboxed",
        action="store_true",
        default=None,
        help="run code without a sandbox: any member can then do here what you can",
    )
    p.add_argument(
        "--archive", action="store_true", default=None, help="never drop old events from the ledger"
    )
    p.add_argument(
        "--preset", choices=("local", "lan", "wan"), help="the network's timers (default: lan)"
    )
    p.add_argument("--log", metavar="LEVEL", help="debug, info, warning (default) or error")
    return p


def options_from(arguments: Sequence[str] | None = None) -> tuple[NodeOptions, str]:
    """The checked options and the log level; raises `Problem`."""
    from kowalski_node.addresses import parse_api, parse_listen, parse_peer
    from kowalski_node.home import Home, default_home, home_at
    from kowalski_node.options import LOG_LEVELS, Given, NodeOptions, known_settings
    from kowalski_node.ports import listen_addresses
    from kowalski_protocol.limits import LIMITS, PRESETS

    given = parser().parse_args(arguments)
    home = home_at(given.home) if given.home else default_home()
    settings = known_settings(Home(home).settings(), vars(given).keys() - {"home"})

    def value(name: str) -> Given:
        flag = getattr(given, name)
        if flag is not None:
            return Given(f"--{name.replace('_', '-')}", flag)
        variable = f"KOWALSKI_{name.upper()}"
        text = os.environ.get(variable)
        if text:
            return Given(variable, text)
        return Given(f"'{name}' in config.toml", settings.get(name))

    if value("model_server").content is not None:
        raise Problem("not_supported", "--model-server is not built in this release.")
    api_text = value("api").text()
    api = parse_api(API_DEFAULT if api_text is None else api_text)
    listen = value("listen").texts()
    host_name = platform.node().partition(".")[0] or "device"
    options = NodeOptions(
        home=home,
        name=value("name").device_name() or host_name[: LIMITS.name_length_max],
        listen=tuple(parse_listen(t) for t in listen) if listen else listen_addresses(home),
        ports_tried=1 if listen else PORTS_TRIED,
        peers=tuple(parse_peer(t) for t in value("peer").texts()),
        join=value("join").text(),
        api_host=api.host,
        api_port=api.port,
        api_token=value("api_token").text(),
        slots=value("slots").slots(),
        labels=value("label").labels(),
        run=value("run").kinds(),
        costs=value("cost").costs(),
        mdns=not value("no_mdns").is_true(),
        unsandboxed=value("unsandboxed").is_true(),
        archive=value("archive").is_true(),
        timers=PRESETS[value("preset").one_of(PRESETS, "lan")],
    )
    return options, value("log").one_of(LOG_LEVELS, "warning").upper()


async def run(options: NodeOptions) -> None:
    """Runs a node until SIGTERM or SIGINT has ended it in order."""
    import trio

    from kowalski_executors import make_executors
    from kowalski_node.core.inputs import Stop
    from kowalski_node.ports import keep_port
    from kowalski_node.runtime import port_of
    from kowalski_node.start import open_node

    from .http.server import serve_api

    executors = make_executors(unsandboxed=options.unsandboxed, work_root=options.home / "work")
    founding: list[Any] = []  # what a first start must tell its owner, until it has
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        _told_in_any_case(founding),
    ):
        async with (
            open_node(options, executors, founding.append) as runtime,
            trio.open_nursery() as nursery,
        ):
            url = await nursery.start(_serve(serve_api, runtime.service, options))
            if options.ports_tried > 1:
                keep_port(options.home, port_of(runtime.network.addresses))
            _greet(options, url, runtime, founding)

            async def stop_on_signal() -> None:
                async for _ in signals:
                    if runtime.node.stopping:
                        _say("kowalski-node: ends at once", error=True)
                        runtime.stopped.set()
                    runtime.pipeline.feed(Stop())

            nursery.start_soon(stop_on_signal)
            await runtime.stopped.wait()
            nursery.cancel_scope.cancel()


def _serve(serve_api: Any, service: Any, options: NodeOptions) -> Any:
    from functools import partial

    return partial(
        serve_api,
        service,
        host=options.api_host,
        port_number=options.api_port,
        token=options.api_token,
    )


def _say(line: str, *, error: bool = False) -> None:
    """Prints a line for the person who started the node."""
    stream = sys.stderr if error else sys.stdout
    stream.write(line + "\n")
    stream.flush()


def _greet(options: NodeOptions, url: str, runtime: Any, founding: list[Any]) -> None:
    node = runtime.node
    _say(f"kowalski-node {options.name}  pid={os.getpid()}")
    _say(f"  device   {runtime.service.cluster().self}")
    _say(f"  home     {options.home}")
    _say(f"  API      {url}")
    for address in runtime.network.addresses:
        _say(f"  listens  {address.rpartition('/p2p/')[0]}")
    if founding:
        _say(f"  founded  a cluster of one: {node.state.name}")
        _tell_recovery_code(founding)
    _say("  ready    Ctrl-C to stop")


def _tell_recovery_code(founding: list[Any]) -> None:
    while founding:
        code = founding.pop().recovery_code
        _say(f"  recovery code (shown once, write it down): {code}")


@contextmanager
def _told_in_any_case(founding: list[Any]) -> Iterator[None]:
    """A cluster that was founded stays, although its first node could not listen, say."""
    try:
        yield
    finally:
        _tell_recovery_code(founding)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: 0 after an orderly end, 1 after a problem, 2 for wrong usage."""
    try:
        options, level = options_from(arguments)
        logging.basicConfig(
            level=level,
            format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
        )
        import trio

        trio.run(run, options)
    except Problem as problem:
        _fail(problem)
    except BaseExceptionGroup as group:
        problems, rest = group.split(Problem)
        if problems is None or rest is not None:
            raise
        _fail(_first(problems))
    except KeyboardInterrupt:
        sys.exit(130)


def _first(group: BaseExceptionGroup[Problem]) -> Problem:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _fail(problem: Problem) -> None:
    _say(f"error [{problem.code}]: {problem.sentence}", error=True)
    if problem.mend:
        _say(f"mend: {problem.mend}", error=True)
    sys.exit(2 if problem.code == "bad_request" else 1)


if __name__ == "__main__":
    main()
