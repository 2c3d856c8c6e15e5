"""The options that every command knows, before its name as well as after it: --api, --token,
--json.

What stands after the command's name counts more, then what stands before it, then the environment.
A command is declared with `@command("name", examples=...)` and gets them without saying so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from .catalogue import COMMANDS


@dataclass(slots=True)
class Settings:
    """What the shared options say, as far as they were given."""

    api: str | None = None
    token: str | None = None
    as_json: bool = False

    @property
    def url(self) -> str:
        """The address of the node's API."""
        from kowalski_node.client.address import api_url

        return api_url(self.api)

    @property
    def api_token(self) -> str | None:
        """The token of the node's API."""
        from kowalski_node.client.address import api_token

        return api_token(self.token)


def settings() -> Settings:
    """The settings of the command that is running."""
    return click.get_current_context().ensure_object(Settings)


def _keep(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Settings), field, value)

    return callback


def shared_options() -> list[click.Parameter]:
    """The options themselves, for the group and for each command."""
    return [
        click.Option(
            ["--api"],
            metavar="HOST:PORT",
            expose_value=False,
            callback=_keep("api"),
            help="The node's API [env: KOWALSKI_API; default: 127.0.0.1:52420].",
        ),
        click.Option(
            ["--token"],
            metavar="TOKEN",
            expose_value=False,
            callback=_keep("token"),
            help="The API's token, if it has one [env: KOWALSKI_API_TOKEN].",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_keep("as_json"),
            help="Print one JSON document and nothing else.",
        ),
    ]


class NodeCommand(click.Command):
    """A command with the shared options and a block of examples under its options."""

    examples: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(shared_options())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))


Function = Callable[..., "int | None"]


def command(
    name: str, *, examples: Sequence[str], details: str = "", cls: type[NodeCommand] = NodeCommand
) -> Callable[[Function], NodeCommand]:
    """Declares a command of the catalogue; its help is the catalogue's sentence and the details."""
    text = COMMANDS[name].summary + (f"\n\n{details}" if details else "")

    def declare(function: Function) -> NodeCommand:
        declared = click.command(name, cls=cls, help=text)(function)
        declared.examples = examples
        return declared

    return declare
