"""Stands beside a program that has been asked for files, and sends them when it has ended.

It runs inside the sandbox, where what the program left lies, and is sent there with the request
(see `driver.py`): a program without such files costs nothing for it. Before the program begins, the
driver forks; the child goes on to the program, of whatever language, and the parent waits. So
neither `exec` nor an exit in the middle of the program is in the way of its files, and whatever a
Python program did to its own interpreter has not been done to this one.

What it sends over the result pipe comes between the frames that the program's own driver sends, so
with it all frames say how long they are: a tag, the length in decimal digits, a line feed, the
body.

    O path     a file begins              D bytes   what is in it, piece by piece
    U path     a file can't be read       N         there are more files than may be
    B          there are more bytes       Z         this was all
"""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatchcase

PIECE_BYTES = 60 << 10
"""With its head below what a pipe holds."""
PATH_BYTES_MAX = 4096 - 256
"""Deeper nothing is looked for: no system call takes a longer path."""
PR_SET_PDEATHSIG = 1
SIGKILL = 9

Identity = tuple[int, int, int, int]


def matches(path: str, pattern: str) -> bool:
    """Whether a path matches a pattern, part by part: `**` stands for any number of folders (at
    the end, for all that is in them), the rest is as in a shell.

    Its time is bounded by the product of the lengths, whoever chose them.
    """
    wanted = pattern.split("/")
    if wanted[-1] == "**":
        wanted.append("*")
    reached = _skipping({0}, wanted)
    for name in path.split("/"):
        further: set[int] = set()
        for at in reached:
            if at == len(wanted):
                continue
            if wanted[at] == "**":
                further.add(at)
            elif fnmatchcase(name, wanted[at]):
                further.add(at + 1)
        reached = _skipping(further, wanted)
    return len(wanted) in reached


def _skipping(reached: set[int], wanted: list[str]) -> set[int]:
    """The same places, and those behind a `**` that stands for no folder."""
    for at in sorted(reached):
        while at < len(wanted) and wanted[at] == "**":
            at += 1
            reached.add(at)
    return reached


def walk(root: int, skipped: bytes) -> list[bytes]:
    """The paths of all regular files below a folder; links are not followed."""
    found: list[bytes] = []
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        try:
            opened = os.open(
                folder or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root
            )
        except OSError:
            continue  # it is gone, or the program has locked itself out
        try:
            with os.scandir(opened) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    path = folder + b"/" + name if folder else name
                    if path == skipped or len(path) > PATH_BYTES_MAX:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        found.append(path)
        except OSError:
            continue
        finally:
            os.close(opened)
    return sorted(found)


def identity(state: os.stat_result) -> Identity:
    """By what an input is known again that the program has left as it was."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def inputs(root: int) -> set[Identity]:
    """The files that are there before the program runs."""
    return {identity(os.stat(path, dir_fd=root, follow_symlinks=False)) for path in walk(root, b"")}


def send(result: int, tag: bytes, body: bytes = b"") -> None:
    """Writes one frame."""
    view = memoryview(tag + b"%d\n" % len(body) + body)
    while view:
        view = view[os.write(result, view) :]


def send_files(
    result: int,
    root: int,
    patterns: list[str],
    before: set[Identity],
    skipped: bytes,
    files_max: int,
    bytes_max: int,
) -> None:
    """Sends what matches a pattern and is not an input as it was."""
    count = size_bytes = 0
    for path in walk(root, skipped):
        shown = os.fsdecode(path)
        if not any(matches(shown, pattern) for pattern in patterns):
            continue
        try:
            # Should it be something else by now, opening it neither follows nor waits.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            file = os.open(path, flags, dir_fd=root)
        except FileNotFoundError:
            continue
        except OSError:
            send(result, b"U", path)
            return
        try:
            state = os.fstat(file)
            if not stat.S_ISREG(state.st_mode) or identity(state) in before:
                continue
            count += 1
            if count > files_max:
                send(result, b"N")
                return
            send(result, b"O", path)
            while piece := os.read(file, PIECE_BYTES):
                size_bytes += len(piece)
                if size_bytes > bytes_max:
                    send(result, b"B")
                    return
                send(result, b"D", piece)
        except OSError:
            send(result, b"U", path)
            return
        finally:
            os.close(file)
    send(result, b"Z")


def stand_over(result: int, request: bytes, own_folder: str) -> None:
    """Splits in two: returns in the child, which becomes the program; the parent waits for it,
    sends what it left if it ended well, and leaves with its status."""
    bounds, *patterns = request.decode().split("\0")
    files_max, bytes_max = map(int, bounds.split())
    # Without a sandbox the program's own file lies in the work folder, and is nothing that it left.
    skipped = os.path.relpath(own_folder)
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    before = inputs(root)
    control = None
    if os.getppid() != 1:
        import ctypes

        control = ctypes.CDLL(None).prctl
    program = os.fork()
    if program == 0:
        os.close(root)
        if control is not None:  # outside a sandbox, where the warden's end would not reach it
            control(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        return
    for descriptor in (0, 1):
        os.close(descriptor)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    if status == 0:
        send_files(result, root, patterns, before, os.fsencode(skipped), files_max, bytes_max)
    os._exit(status if status >= 0 else 128 - status)
