"""The files of a task on the command line: sent before it is submitted, saved after it has ended.

A file is read twice: once for its hash, by which the node is asked whether it keeps it already,
and, if it does not, once to be sent. Both go piece by piece, so its size is no matter of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kowalski_protocol.errors import Problem

from .outcome import exit_code
from .screen import print_json, progress, wants_json
from .transport import NodeApi, part
from .wording import safe, size

if TYPE_CHECKING:
    from kowalski_node.client.local_files import LocalFile

_MEBIBYTE = 1 << 20
_LEFT_OUT_SHOWN = 3


def add_files(api: NodeApi, spec: dict[str, Any], sources: Sequence[str]) -> None:
    """Puts the files into the task's payload, and on the node where it doesn't keep them yet."""
    # These take time to import, and most commands have no files.
    from kowalski_node.client.local_files import find_files
    from kowalski_protocol.task_files import check_files
    from kowalski_protocol.tasks import parse_task

    files, left_out = find_files(sources)
    _tell_left_out(left_out)
    # Refused before anything is sent: the hashes are all of the same length.
    spec["payload"]["inputs"] = [_entry(file, "0" * 64) for file in files]
    check_files(spec["payload"])
    parse_task(spec)
    total = sum(file.size_bytes for file in files)
    blobs: list[str] = []
    with progress("Hashing", "MiB") as update:
        done = 0

        def note(size_bytes: int) -> None:
            nonlocal done
            done += size_bytes
            update(done // _MEBIBYTE, total // _MEBIBYTE)

        for file in files:
            blobs.append(file.blob(note))
    _send(api, files, blobs)
    spec["payload"]["inputs"] = [
        _entry(file, blob) for file, blob in zip(files, blobs, strict=True)
    ]


def finish(
    api: NodeApi,
    view: dict[str, Any],
    *,
    show: Callable[[], None],
    save: Path | None,
    overwrite: bool,
) -> int:
    """Shows how a task ended and saves the files that it left; returns the exit code."""
    folder = save if view["outcome"] == "completed" else None
    if wants_json():
        # First, since a program that reads this reads one document: the task, or what went wrong.
        if folder is not None:
            save_files(api, view, folder, overwrite=overwrite)
        print_json(view)
        return exit_code(view)
    show()
    if folder is not None:
        save_files(api, view, folder, overwrite=overwrite)
    else:
        tell_files(view)
    return exit_code(view)


def save_files(api: NodeApi, view: dict[str, Any], folder: Path, *, overwrite: bool) -> None:
    """Writes the files that the task left below the folder. Raises Problem."""
    from msgspec import MsgspecError, convert

    from kowalski_node.client.saving import open_saving
    from kowalski_node.views import FileView

    try:
        result: dict[str, Any] = view["result"] or {}
        files = convert(result.get("files", []), list[FileView])
    except MsgspecError:
        raise Problem("bad_answer", "What the node says of files can't be read.") from None
    total = sum(file.size_bytes for file in files)
    with (
        open_saving(folder, files, overwrite=overwrite) as saving,
        progress("Saving", "MiB") as update,
    ):
        done = 0
        for file in files:
            with saving.target(file) as target:
                for piece in api.pieces(f"/api/blobs/{part(file.blob)}"):
                    target.write(piece)
                    done += len(piece)
                    update(done // _MEBIBYTE, total // _MEBIBYTE)
    if not wants_json():
        for file in files:
            shown = safe(folder / file.path)
            click.echo(f"Wrote {size(file.size_bytes)} to {shown}.", err=True)


def tell_files(view: dict[str, Any]) -> None:
    """Says which files the task left, where they are not saved."""
    result: dict[str, Any] = view["result"] or {}
    files: list[dict[str, Any]] = result.get("files") or []
    for file in files:
        click.echo(f"Left {safe(file['path'])} ({size(file['size_bytes'])}).", err=True)
    if files:
        click.echo(f"kowalski result {view['id'][:12]} --save DIR saves them.", err=True)


def _send(api: NodeApi, files: Sequence[LocalFile], blobs: Sequence[str]) -> None:
    wanted = {
        blob: file
        for file, blob in zip(files, blobs, strict=True)
        if not api.has(f"/api/blobs/{blob}", kept=True)
    }
    total = sum(file.size_bytes for file in wanted.values())
    with progress("Sending", "MiB") as update:
        done = 0

        def note(size_bytes: int) -> None:
            nonlocal done
            done += size_bytes
            update(done // _MEBIBYTE, total // _MEBIBYTE)

        for blob, file in wanted.items():
            answer = api.upload("/api/blobs", file.pieces(note), file.size_bytes)
            file.check_sent(blob, str(answer.get("hash")))


def _entry(file: LocalFile, blob: str) -> dict[str, Any]:
    return {"path": file.path, "blob": blob, "size_bytes": file.size_bytes}


def _tell_left_out(left_out: Sequence[Path]) -> None:
    if not left_out:
        return
    shown = ", ".join(safe(path) for path in left_out[:_LEFT_OUT_SHOWN])
    more = ", …" if len(left_out) > _LEFT_OUT_SHOWN else ""
    click.echo(
        f"Left out, being links or no files: {shown}{more}. A link that is named itself is taken.",
        err=True,
    )
