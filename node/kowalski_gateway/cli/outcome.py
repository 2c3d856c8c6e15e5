"""How a task's end is shown by `result` and `submit --wait`: output, and value or error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .cluster import device_names
from .screen import cannot_write, error_line, print_output, print_value, styled, tinted
from .transport import NodeApi, part
from .wording import peer_end, safe, size

if TYPE_CHECKING:
    from rich.text import Text

_CELLS_SHOWN: Final = 10
_STYLES = {"completed": "green", "running": "cyan", "failed": "red", "dead": "red"}


def save_options(meaning: str) -> Callable[[Any], Any]:
    """The options --save DIR and --overwrite, with what saving means here."""

    def options(command: Any) -> Any:
        overwrite = click.option(
            "--overwrite", is_flag=True, help="Where --save writes, replace what is there."
        )
        folder = click.Path(file_okay=False, path_type=Path)
        save = click.option("--save", type=folder, metavar="DIR", help=meaning)
        return save(overwrite(command))

    return options


def end_of(view: dict[str, Any]) -> Text:
    """The outcome of a settled task, the state of another."""
    word = view["outcome"] or view["state"]
    ended = view["outcome"] is not None
    return styled(word, _STYLES.get(word, "yellow" if ended and word != "completed" else ""))


def exit_code(view: dict[str, Any]) -> int:
    """0 where the task completed; 1 where it failed or is still under way."""
    return 0 if view["outcome"] == "completed" else 1


def show_result(
    api: NodeApi, view: dict[str, Any], *, out: Path | None = None, printed: bool = False
) -> None:
    """The task's output (unless it was `printed` live), and its value or error."""
    result: dict[str, Any] = view["result"] or {}
    if not printed:
        print_output(_whole_lines(result.get("stdout", ""), result.get("value")))
        print_output(result.get("stderr", ""), error=True)
    if view["state"] != "settled":
        waiting = f": {view['waiting']}" if view.get("waiting") else ""
        error_line(
            f"The task has not settled yet, it is {view['state']}{waiting}.",
            f"kowalski result {view['id'][:12]} --wait",
            code="not_settled",
        )
    elif view["outcome"] == "completed":
        _show_value(api, result, out)
    else:
        error: dict[str, Any] = result.get("error") or {}
        sentence = error.get("message") or f"The task ended as {view['outcome']}."
        mend = error.get("mend") or f"kowalski why {view['id'][:12]}"
        error_line(sentence, mend, code=error.get("code"))


def tell_rebuilt(api: NodeApi, view: dict[str, Any]) -> None:
    """Says on stderr where the task's session had to be made anew for it, and what differs since.

    Nothing where it had not.
    """
    session: dict[str, Any] = view.get("session") or {}
    rebuilt: dict[str, Any] | None = session.get("rebuilt")
    if rebuilt is None:
        return
    diverged: list[int] = rebuilt["diverged"]
    stopped: list[int] = rebuilt["passed_over"]
    device = view["device"] or ""
    name = device_names(api.get("/api/cluster")).get(device, peer_end(device))
    count = rebuilt["replayed"]
    parts = [f"The session was made anew on {safe(name)} from {_of('cell', count)}"]
    if diverged:
        parts.append(f"{_numbered(diverged)} came out otherwise")
    if stopped:
        was = "its own and was" if len(stopped) == 1 else "their own and were"
        parts.append(f"{_numbered(stopped)} had not come to an end of {was} passed over")
    click.echo(tinted(f"{'; '.join(parts)}.", dim=True), err=True)


def _of(what: str, count: int) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _numbered(cells: Sequence[int]) -> str:
    shown = [str(cell) for cell in cells[:_CELLS_SHOWN]]
    if len(cells) > _CELLS_SHOWN:
        shown.append(f"{len(cells) - _CELLS_SHOWN:,} more")
    if len(shown) == 1:
        return f"cell {shown[0]}"
    return f"cells {', '.join(shown[:-1])} and {shown[-1]}"


def _whole_lines(output: str, value: Any) -> str:
    """The output, ended so that the value begins on a line of its own."""
    needs_end = output and value is not None and not output.endswith("\n")
    return output + "\n" if needs_end else output


def _elsewhere(result: dict[str, Any]) -> str | None:
    """The blob that the result is, where the answer holds nothing of what is in it."""
    brought = (result.get(name) for name in ("stdout", "stderr", "files"))
    is_here = result.get("value") is not None or any(brought)
    return None if is_here else result.get("blob")


def _show_value(api: NodeApi, result: dict[str, Any], out: Path | None) -> None:
    blob = _elsewhere(result)
    if out is None:
        if blob is None:
            print_value(result.get("value"))
        else:
            click.echo(f"The result is a blob, {blob}; --out FILE fetches it.", err=True)
        return
    try:
        with out.open("wb") as file:
            if blob is None:
                file.write(json.dumps(result.get("value")).encode() + b"\n")
            else:
                api.save(f"/api/blobs/{part(blob)}", file)
        click.echo(f"Wrote {size(out.stat().st_size)} to {out}.", err=True)
    except OSError as error:
        raise cannot_write(str(out), error) from None
