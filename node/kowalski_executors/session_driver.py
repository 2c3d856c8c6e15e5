"""What runs the cells of a session inside the sandbox: an interpreter that stays between them.

The driver hands over to it (see `driver.py`), so that a program of its own costs nothing for it.
From then on the node sends one cell at a time and waits for its result:

    node → interpreter (request)   b"SERIAL CELL CPU_S SIZE\\n", then so many bytes of text
    interpreter → node (result)    b"SERIAL STATUS SIZE\\n", then a frame as the driver's

A cell of Python runs in the module `__main__` of this very process; Bash takes this process's place
and runs the loop below. An interrupt is SIGINT, which counts only while a cell runs: the handler
that a cell has is put aside when it ends, and one that does nothing stands in its place.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import builtins
import os
import resource
import sys
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FUTURES = 0x1FE0000
"""The flags of code that a `from __future__ import` sets; they hold for the cells that follow."""
SIGINT = 2
READ_BYTES = 1 << 16
MODE_OF = {"stdin": "r", "stdout": "w", "stderr": "w"}
BASH_REQUEST, BASH_RESULT, BASH_CELL = 250, 251, 252
"""Where Bash has its pipes and the file through which it runs a cell: beyond what scripts use."""

BASH_LOOP = r"""
exit() {
    local last=$?
    if [[ $BASHPID != "$$" || ! $__kowalski_busy ]]; then
        builtin exit "${@-$last}"
    elif (builtin exit "${@-$last}"); then
        __kowalski_leave 0
    else
        __kowalski_leave $?
    fi
}
__kowalski_leave() {
    {
        __kowalski_left=$1 __kowalski_flags=$- __kowalski_trap=$(trap -p DEBUG) __kowalski_undo=
        set +eux
        shopt -q extdebug || __kowalski_undo+='shopt -u extdebug;'
        [[ $- == *T* ]] || __kowalski_undo+='set +T;'
        shopt -s extdebug
        set -T
        trap __kowalski_step DEBUG
    } 2> /dev/null
}
__kowalski_step() { ((${#FUNCNAME[@]} < 2)) || return 2; }
__kowalski_interrupt() { [[ ! $__kowalski_busy ]] || __kowalski_leave 130; }
__kowalski_run() {
    return "$1"
}
__kowalski_set() {
    set "-$__kowalski_flags"
    [[ $__kowalski_flags == *e* ]] || return "$__kowalski_last"
}
__kowalski_busy= __kowalski_flags= __kowalski_last=0
trap __kowalski_interrupt INT
while
    LC_ALL=C IFS=' ' builtin read -r -u 250 __kowalski_serial _ _ __kowalski_size &&
        LC_ALL=C IFS= builtin read -r -N "$__kowalski_size" -u 250 __kowalski_cell
do
    __kowalski_left= __kowalski_status= __kowalski_before= __kowalski_busy=1
    [[ ! $__kowalski_flags ]] || __kowalski_before='{ __kowalski_set; } 2> /dev/null;'
    __kowalski_run "$__kowalski_last"
    . /dev/fd/252
    {
        __kowalski_ended=$?
        __kowalski_busy=
        if [[ $__kowalski_left ]]; then
            trap - DEBUG
            eval "$__kowalski_undo $__kowalski_trap"
            __kowalski_status=$__kowalski_left
        elif [[ ! $__kowalski_status ]]; then
            __kowalski_status=$__kowalski_ended __kowalski_flags=$-
        fi
        set +eux
        __kowalski_last=$__kowalski_status __kowalski_flags=${__kowalski_flags//[!eux]/}
    } &> /dev/null
    builtin printf '%s %s 0\n' "$__kowalski_serial" "$__kowalski_status" >&251
done
"""
"""A cell is text for `eval` in a file that is sourced: it has the shell's own variables, and the
shell can be made to leave it. `exit` is a function: it has all commands that follow fall out of the
file, by a trap before each of them, as bashdb does it; in a subshell it is the builtin. The options
that would end or garble this loop are put aside while no cell runs."""

BASH_SOURCE = r"""builtin eval "$__kowalski_before$__kowalski_cell

{ __kowalski_status=\$? __kowalski_flags=\$-; set +eux; } &> /dev/null"
"""


def quiet(_number: int, _frame: object) -> None:
    """Between cells an interrupt has nothing to interrupt."""


class Leave:
    """What `exit` and `quit` are: they end the cell, and leave the standard input open."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Use {self.name}() to end the cell"

    def __call__(self, code: object = None) -> None:
        """Ends the cell."""
        raise SystemExit(code)


class Interpreter:
    """The Python of a session."""

    def __init__(
        self, driver: dict[str, Any], request: int, result: int, value_bytes_max: int
    ) -> None:
        self.driver = driver
        self.request, self.result = request, result
        self.value_bytes_max = value_bytes_max
        self.main = sys.modules["__main__"]  # kept: its names are used on a cold start
        self.namespace: dict[str, object] = driver["new_main"]([])
        builtins.exit, builtins.quit = Leave("exit"), Leave("quit")
        self.flags = 0
        self.own_id = os.getpid()
        self.handler: object = _signal.default_int_handler  # pyright: ignore
        self.streams = {name: os.dup(number) for number, name in enumerate(MODE_OF)}
        # A cell may replace what is in these modules.
        self.read, self.process_id = os.read, os.getpid
        self.cached: Any = __import__("linecache")

    def serve(self) -> None:
        """Runs cells until the node closes its end."""
        while True:
            serial, cell, cpu_s, text = self.next_cell()
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            used = resource.getrusage(resource.RUSAGE_SELF)
            bound = int(used.ru_utime + used.ru_stime) + cpu_s
            if hard != resource.RLIM_INFINITY:
                bound = min(bound, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (bound, hard))
            self.mend_streams()
            status, frame = self.run(f"<cell {cell}>", text)
            head = b"%d %d %d\n" % (serial, status, len(frame))
            self.driver["write_all"](self.result, head + frame)

    def next_cell(self) -> tuple[int, int, int, str]:
        """Waits for a cell: its serial number, which one it is, its processor time, its text."""
        data = b""
        while b"\n" not in data:
            data += self.some()
        head, _, data = data.partition(b"\n")
        serial, cell, cpu_s, size = map(int, head.split())
        parts = [data]
        missing = size - len(data)
        while missing > 0:
            parts.append(self.some())
            missing -= len(parts[-1])
        return serial, cell, cpu_s, b"".join(parts).decode()

    def some(self) -> bytes:
        """Reads what has come; leaves where nothing can come any more."""
        data = self.read(self.request, READ_BYTES)
        if not data:
            os._exit(0)
        return data

    def mend_streams(self) -> None:
        """Gives the interpreter back what a cell has closed of its standard streams."""
        for number, (name, mode) in enumerate(MODE_OF.items()):
            stream = getattr(sys, f"__{name}__", None)
            if stream is None or not stream.closed:
                continue
            os.dup2(self.streams[name], number)
            opened = open(number, mode, closefd=False, buffering=1)  # noqa: SIM115
            if getattr(sys, name, None) is stream:
                setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)

    def hush(self) -> None:
        """Puts aside the handler that a cell has for interrupts."""
        while _signal.getsignal(SIGINT) is not quiet:  # pyright: ignore
            try:
                kept = _signal.signal(SIGINT, quiet)  # pyright: ignore
                # None stands for a handler that is not Python's, and can't be set again.
                self.handler = kept if kept is not None else _signal.default_int_handler  # pyright: ignore
            except BaseException:  # guard: the interrupt itself, which came just now
                pass

    def let_pass(self) -> None:
        """Has an interrupt arrive that came late, and that a cell has blocked."""
        blocked = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (SIGINT,))  # pyright: ignore
        if SIGINT in blocked:  # pyright: ignore
            _signal.pthread_sigmask(_signal.SIG_BLOCK, (SIGINT,))  # pyright: ignore

    def run(self, name: str, text: str) -> tuple[int, bytes]:
        """Runs a cell; returns its status and the frame that tells of it."""
        status, frame = 0, b""
        try:
            try:
                lines = self.driver["lines_of"](text)
                self.cached.cache[name] = (len(text), None, lines, name)
                self.let_pass()
                # What came late is taken by the handler that does nothing before this returns.
                _signal.signal(SIGINT, self.handler)  # pyright: ignore
                value = self.execute(text, name)
                frame = self.driver["value_frame"](value, self.value_bytes_max)
            finally:
                self.hush()
        except BaseException as error:  # guard: whatever the cell raises is its outcome
            self.hush()
            reserves = self.use_reserves()
            status, frame = self.driver["conclude"](error, text, name)
            for kind, bounds in reserves:
                resource.setrlimit(kind, bounds)
        if self.process_id() != self.own_id:
            # A child that the cell forked: the session goes on in its parent alone.
            self.driver["leave"](status, {})
        self.flush()
        return status, frame

    def execute(self, text: str, name: str) -> object:
        """Runs a cell's text in the session's module; returns the value of its last expression."""
        driver, flags = self.driver, self.flags
        parts: tuple[CodeType, CodeType | None]
        parts = driver["parts_by_text"](text, name, flags) or driver["parts_by_tree"](
            text, name, flags
        )
        before, last = parts
        self.flags |= before.co_flags & FUTURES
        exec(before, self.namespace)
        return eval(last, self.namespace) if last is not None else None

    def use_reserves(self) -> list[tuple[int, tuple[int, int]]]:
        """Raises the limits by what a report needs; returns what they were."""
        kept: list[tuple[int, tuple[int, int]]] = []
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE):
            soft, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (hard, hard))
            kept.append((kind, (soft, hard)))
        return kept

    def flush(self) -> None:
        """Writes what was printed."""
        for stream in {id(s): s for s in (sys.stdout, sys.stderr, sys.__stdout__)}.values():
            try:
                if stream is not None and not stream.closed:
                    stream.flush()
            except BaseException:  # guard: whatever a cell has put there
                pass


def become_bash(command: str, request: int, result: int) -> None:
    """Bash takes this process's place."""
    # As for a program: the interpreter ignores these.
    for number in (13, 25):  # SIGPIPE, SIGXFSZ
        _signal.signal(number, _signal.SIG_DFL)  # pyright: ignore
    path = os.environ.get("TMPDIR", "/tmp") + "/cell"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)  # noqa: PTH108
    os.write(file, BASH_SOURCE.encode())
    ends = ((request, BASH_REQUEST), (result, BASH_RESULT), (file, BASH_CELL))
    for descriptor, place in ends:
        os.dup2(descriptor, place)
    for descriptor, place in ends:
        if descriptor != place:
            os.close(descriptor)
    os.execv(command, [command, "--norc", "--noprofile", "-c", BASH_LOOP, "bash"])


def serve(
    driver: dict[str, Any], request: int, result: int, value_bytes_max: int, parts: list[bytes]
) -> None:
    """Runs the cells of one session; never returns."""
    # Its group gets the interrupts.
    os.setpgid(0, 0)
    _signal.signal(SIGINT, quiet)  # pyright: ignore
    (command,) = parts
    if command:
        become_bash(command.decode(), request, result)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore
    try:
        Interpreter(driver, request, result, value_bytes_max).serve()
    finally:
        os._exit(1)
