"""The `kowalski` command and `kowalski-node`, run as a person would run them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from kowalski_gateway.local_cluster import LocalNode

COMMAND_S = 60.0


class Ended:
    """How a command ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The error's code, where the command ran with --json."""
        return self.json()["error"]["code"]


async def run(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a module as a program to its end."""
    with trio.fail_after(COMMAND_S):
        ended = await trio.run_process(
            [sys.executable, "-m", module, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


async def kowalski(node: LocalNode, *arguments: str) -> Ended:
    """`kowalski … --json` at a node."""
    return await run("kowalski_gateway.cli.main", "--api", node.url, *arguments, "--json")


async def offline(*arguments: str) -> Ended:
    """`kowalski … --json` where no node is needed."""
    return await run("kowalski_gateway.cli.main", *arguments, "--json")


async def node_fails(*arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """A `kowalski-node` that is expected to end by itself."""
    words: Sequence[str] = (*arguments, "--no-mdns")
    return await run("kowalski_gateway.node_main", *words, environment=environment)
