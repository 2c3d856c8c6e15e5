"""`kowalski submit`: one task from the command line, and with --wait its output while it runs."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from kowalski_protocol.errors import Problem

from .cluster import resolve_device
from .files import add_files, finish
from .outcome import save_options, show_result, tell_rebuilt
from .screen import print_json, print_output, wants_json
from .settings import command
from .transport import NodeApi, node_api, part
from .waiting import Seconds, WaitCommand, wait_option
from .watching import Watch, watching

LANGUAGES: Final = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".sh": "bash",
    ".rs": "rust",
    ".java": "java",
}
FILE_SIZE_BYTES_MAX: Final = 1024 * 1024
"""Above what a node takes as a payload; a larger file need not be read to know."""
STDIN_SIZE_BYTES_MAX: Final = FILE_SIZE_BYTES_MAX
"""The same: it travels in the payload."""
QUICK_S: Final = 0.5
"""A task that settles within this is shown from its result, without opening a stream."""


def _finite(ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is None or math.isfinite(value):
        return value
    raise click.BadParameter("must be a number of seconds.", ctx, parameter)


@command(
    "submit",
    cls=WaitCommand,
    examples=(
        "kowalski submit analyse.py --wait",
        "kowalski submit --tool echo --args '{\"value\": 1}' --wait",
        "kowalski submit count.sh --arg fox --stdin words.txt --wait",
        "kowalski submit train.py --require memory_mb=2048 --device laptop",
        "kowalski submit plot.py --file data/ --output 'plots/*.png' --wait",
        "echo 'print(6 * 7)' | kowalski submit - --lang python --wait 30",
        "kowalski submit graph.json --wait",
    ),
    details=(
        "FILE is the program of a code task (- reads it from stdin), or the tasks of a graph in"
        " JSON; a tool task takes --tool and --args."
        " Prints the task's id once the task is durable."
    ),
)
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--kind", metavar="KIND", help="code or tool [default: by the other options].")
@click.option("--lang", metavar="LANG", help="The program's language [default: by FILE's suffix].")
@click.option(
    "--arg", multiple=True, metavar="TEXT", help="An argument of the program; repeatable."
)
@click.option(
    "--env", multiple=True, metavar="K=V", help="A variable of its environment; repeatable."
)
@click.option("--stdin", metavar="FILE", help="Its standard input, text.")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="LOCAL[=PATH]",
    help="A file, folder or pattern to lay into its work folder, as PATH; repeatable.",
)
@click.option(
    "--output",
    multiple=True,
    metavar="PATTERN",
    help="What to bring back of the files that it leaves; repeatable.",
)
@save_options("With --wait, write these below DIR [default: here].")
@click.option(
    "--session",
    metavar="NAME",
    help="Run it as the next cell of this session, in an interpreter that is kept.",
)
@click.option("--tool", metavar="NAME", help="The tool of a tool task.")
@click.option("--args", metavar="JSON", help="The tool's arguments, a JSON object.")
@click.option(
    "--require", multiple=True, metavar="K=V", help="What the device must have; repeatable."
)
@click.option("--priority", type=int, metavar="N", help="Higher goes first [default: 0].")
@click.option(
    "--timeout",
    type=float,
    metavar="S",
    callback=_finite,
    help="Seconds one attempt may take [default: 300].",
)
@click.option("--label", multiple=True, metavar="K=V", help="A label of your own; repeatable.")
@click.option("--key", metavar="KEY", help="Makes a repeated submission the same task.")
@click.option(
    "--device-filter",
    type=click.Choice(("local", "network", "all")),
    help="This device, the others, or all [default: all].",
)
@click.option("--device", metavar="NAME|ID", help="Run on this device alone.")
@click.option(
    "--failover",
    type=click.Choice(("redistribute", "fail", "queue")),
    help="When its device is lost [default: redistribute].",
)
@click.option(
    "--hedge",
    is_flag=True,
    help="Where it runs far longer than others, run it on a second device as well.",
)
@click.option("--max-attempts", type=int, metavar="N", help="How often it may fail [default: 1].")
@wait_option("Show its output and result, waiting at most so many seconds.")
def submit(file: str | None, wait: Seconds, **options: Any) -> int:
    saved_to = _folder(wait, options)
    api = node_api()
    spec = task_spec(file, options)
    if options["device"]:
        device = resolve_device(api.get("/api/cluster"), options["device"])
        spec["requires"] = {**spec.get("requires", {}), "device": device}
    if options["files"]:
        add_files(api, spec, options["files"])
    if wait is None:
        accepted = api.ask("POST", "/api/tasks", spec)
        if wants_json():
            print_json(accepted)
        else:
            click.echo(accepted["id"])
        return 0
    view, printed = _follow(api, spec, wait)

    def show() -> None:
        show_result(api, view, printed=printed)
        tell_rebuilt(api, view)

    return finish(
        api,
        view,
        show=show,
        save=saved_to,
        overwrite=options["overwrite"],
    )


def _folder(wait: Seconds, options: dict[str, Any]) -> Path | None:
    """Where the files that the task leaves are written to; None: nowhere."""
    given: Path | None = options["save"]
    if given is not None and wait is None:
        raise click.UsageError("--save needs --wait; `kowalski result ID --save DIR` saves later.")
    if given is not None and not options["output"]:
        raise click.UsageError("--save needs an --output PATTERN that says what to bring back.")
    return given or (Path() if options["output"] and wait is not None else None)


def _follow(api: NodeApi, spec: dict[str, Any], wait_s: float) -> tuple[dict[str, Any], bool]:
    deadline = time.monotonic() + wait_s
    quick_s = min(wait_s, QUICK_S)
    view = api.ask("POST", "/api/tasks", {**spec, "wait_s": quick_s}, wait_s=quick_s)
    printed = False
    if view["state"] != "settled" and wait_s > quick_s:
        if wants_json():
            view = api.wait(view["id"], max(0.0, deadline - time.monotonic()))
        else:
            click.echo(f"task {view['id'][:12]}", err=True)
            with watching(view["id"]) as watch:
                view, printed = _print_live(api, view, deadline, watch)
                if view["state"] != "settled":  # its output has ended; its owner still has its word
                    view = api.wait(view["id"], max(0.0, deadline - time.monotonic()))
    return view, printed


def _print_live(
    api: NodeApi, view: dict[str, Any], deadline: float, watch: Watch
) -> tuple[dict[str, Any], bool]:
    """Prints what the task prints until it ends; returns it and whether anything was printed."""
    path = f"/api/tasks/{part(view['id'])}"
    printed = False
    line_open = False
    for event in api.stream(f"{path}/output", deadline=deadline, follow=True):
        data: dict[str, Any] = json.loads(event.data)
        if event.kind == "end":
            if line_open:
                watch.printed("\n")
                click.echo()
            return data, printed
        printed = True
        if data["stream"] == "stdout":
            line_open = not data["text"].endswith("\n")
        watch.printed(data["text"])
        print_output(data["text"], error=data["stream"] == "stderr")
    return api.get(path), printed


def task_spec(file: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of POST /api/tasks; UsageError where the options don't make one."""
    kind = options["kind"] or _kind(file, options)
    spec: dict[str, Any] = {"kind": kind, "payload": _payload(kind, file, options)}
    given = {
        "priority": options["priority"],
        "timeout_s": options["timeout"],
        "idempotency_key": options["key"],
        "device_filter": options["device_filter"],
        "failover": options["failover"],
        "session": options["session"],
        "hedge": options["hedge"] or None,
    }
    spec |= {name: value for name, value in given.items() if value is not None}
    if options["max_attempts"] is not None:
        spec["retry"] = {"max_attempts": options["max_attempts"]}
    if options["label"]:
        spec["labels"] = dict(pair(one, "--label") for one in options["label"])
    if options["require"]:
        spec["requires"] = requirements(options["require"])
    return spec


def _kind(file: str | None, options: dict[str, Any]) -> str:
    if options["tool"]:
        return "tool"
    is_json = file is not None and Path(file).suffix.lower() == ".json"
    return "graph" if is_json and not options["lang"] else "code"


def _payload(kind: str, file: str | None, options: dict[str, Any]) -> dict[str, Any]:
    for_programs = ("arg", "env", "stdin", "lang", "files", "output", "session")
    if kind != "code":
        for name in for_programs:
            if options[name]:
                name = name.removesuffix("s")
                raise click.UsageError(f"--{name} belongs to a program, and not to a {kind}.")
    if kind == "graph":
        if file is None or options["tool"] or options["args"]:
            raise click.UsageError("A graph task takes a FILE of JSON, and no tool.")
        return _object(_text(file, FILE_SIZE_BYTES_MAX, "a graph"), file)
    if kind == "tool":
        if not options["tool"]:
            raise click.UsageError("A tool task needs --tool NAME.")
        if file is not None:
            raise click.UsageError("A tool task takes --args JSON and no file.")
        return {"tool": options["tool"], "args": _arguments(options["args"])}
    if options["tool"] or options["args"]:
        raise click.UsageError("--tool and --args belong to --kind tool.")
    if file is None:
        raise click.UsageError("Name the program's FILE, or - for stdin; or a --tool.")
    language = options["lang"] or LANGUAGES.get(Path(file).suffix.lower())
    if language is None:
        raise click.UsageError(f"{file!r} doesn't tell its language; say --lang python.")
    if options["session"]:
        for name in ("arg", "env", "stdin", "files", "output"):
            if options[name]:
                what = name.removesuffix("s")
                raise click.UsageError(
                    f"--{what} is for programs of their own; a cell of a session takes none."
                )
    payload: dict[str, Any] = {"language": language, "code": _program(file)}
    if options["arg"]:
        payload["args"] = [*options["arg"]]
    if options["env"]:
        payload["env"] = dict(pair(one, "--env") for one in options["env"])
    if options["output"]:
        payload["outputs"] = [*options["output"]]
    if options["stdin"] is not None:
        if file == options["stdin"] == "-":
            raise click.UsageError("The program and its input can't both come from stdin.")
        payload["stdin"] = _text(options["stdin"], STDIN_SIZE_BYTES_MAX, "an input")
    return payload


def _arguments(text: str | None) -> dict[str, Any]:
    return _object(text or "{}", "--args")


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # `loads` takes NaN, and makes 1e999 infinite
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{what} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{what} must be a JSON object.")
    return value  # pyright: ignore[reportUnknownVariableType]


def _program(file: str) -> str:
    return _text(file, FILE_SIZE_BYTES_MAX, "a program")


def _text(file: str, size_bytes_max: int, what: str) -> str:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(size_bytes_max + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(size_bytes_max + 1)
        if len(data) > size_bytes_max:
            raise Problem("spec_too_large", f"{file} is larger than {what} may be.")
        return data.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{file} is not UTF-8 text.") from None
    except (OSError, ValueError) as error:  # the latter for a name that can't be one
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"{file} can't be read: {reason}.") from None


def pair(text: str, option: str) -> tuple[str, str]:
    """K=V as its two sides."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} takes K=V, not {text!r}.")
    return name, value


def requirements(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`memory_mb=512` and `labels.room=attic` as the object of `requires`."""
    requires: dict[str, Any] = {}
    for text in pairs:
        name, value = pair(text, "--require")
        if name.startswith("labels."):
            requires.setdefault("labels", {})[name.removeprefix("labels.")] = value
            continue
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            requires[name] = int(number) if number.is_integer() else number
        else:
            requires[name] = value
    return requires
