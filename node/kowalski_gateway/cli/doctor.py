"""`kowalski doctor`: one look at everything on this device that a node needs, with the cause and
the mend."""

from __future__ import annotations

from typing import Any

import click

from .screen import print_json, say, styled, wants_json
from .settings import command, settings


@command(
    "doctor",
    examples=("kowalski doctor", "kowalski doctor --json"),
    details="Needs no running node; exits with 1 where a check fails.",
)
def doctor() -> int:
    from .checks import run_checks

    results = run_checks(settings().url, settings().api_token)
    ok = all(result.ok is not False for result in results)
    if wants_json():
        checks: list[dict[str, Any]] = [
            {"name": one.name, "ok": one.ok, "message": one.sentence, "mend": one.mend}
            for one in results
        ]
        print_json({"ok": ok, "checks": checks})
        return 0 if ok else 1
    width = max(len(one.name) for one in results)
    from .screen import console

    screen = console()
    for one in results:
        mark, style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "dim")}[one.ok]
        screen.print(styled(mark, style), end=" ")
        say(f"{one.name:<{width}}  {one.sentence}")
        if one.mend and one.ok is False:
            say(f"{'':<{width + 4}}mend: {one.mend}")
    failed = sum(one.ok is False for one in results)
    click.echo()
    say("All is well." if ok else f"{failed} of {len(results)} checks failed.")
    return 0 if ok else 1
