"""`kowalski completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

from typing import Final

import click

from .screen import print_json, wants_json
from .settings import command

SHELLS: Final = ("bash", "zsh", "fish")


@command(
    "completion",
    examples=(
        'eval "$(kowalski completion bash)"',
        "kowalski completion zsh > ~/.zfunc/_kowalski",
        "kowalski completion fish > ~/.config/fish/completions/kowalski.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None
    root = click.get_current_context().find_root().command
    script = completer(root, {}, "kowalski", "_KOWALSKI_COMPLETE").source()
    if wants_json():
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
