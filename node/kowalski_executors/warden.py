"""The process that stands over a program, so that nothing of it outlives the run, or the node.

The node holds one end of a pipe, the lifeline; the warden sleeps on the other. When the program
ends, or the lifeline is cut (on purpose, or because the node was killed at whatever instant), the
warden ends everything and leaves with the program's status. A byte over the lifeline has it send
the program an interrupt, and a byte comes back once that is done. It runs before the driver in the
same interpreter, which then forks: the child goes on to the driver.

In a sandbox the warden is process 1 of the namespace: when it leaves, the kernel kills all that is
in it, and no signal from inside touches it. Without a sandbox, it has Linux give it every orphan
among its descendants, and kills them again and again until none is left.

bubblewrap's own `--die-with-parent` is not used. The kernel sends that signal in the name of the
dying parent, so it never arrives where the sandbox has another user than the node; it fires when
the *thread* that started the program ends; and for a moment during start-up it leaves a process
behind that waits for ever.
"""

from __future__ import annotations

# `signal` would import `enum`, 3 ms of every run.
import _signal  # pyright: ignore[reportMissingImports]
import os
import select
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SIGINT = 2
SIGCHLD = 17
SIGKILL = 9
KILLED = 128 + SIGKILL


def on_child(_number: int, _frame: object) -> None:
    """Has nothing to do: that a child ended is told by the descriptor that wakes the warden."""


def descendants() -> list[int]:
    """Returns all processes that descend from this one."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        children: list[int] = []
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208
                with open(f"/proc/{parent}/task/{thread}/children") as file:  # noqa: PTH123
                    children += [int(child) for child in file.read().split()]
        except OSError:
            pass  # it ended meanwhile
        found += children
        waiting += children
    return found


def stop_all() -> None:
    """Kills all descendants, until there are none."""
    while True:
        for process in descendants():
            try:
                os.kill(process, SIGKILL)
            except OSError:
                pass
        try:
            # Whoever the dead leave behind becomes a child of this process, so it looks again.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        select.select([], [], [], 0.001)


def keep_open(descriptors: list[int]) -> None:
    """Closes all descriptors but these: only the program may hold its pipes, so that its end is
    theirs."""
    low = 0
    for descriptor in sorted(descriptors):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, 1 << 16)


def interrupt(program: int, lifeline: int) -> bool:
    """Sends SIGINT to the program and its process group where the node asks for it, and says so;
    False where the line was cut."""
    try:
        if not os.read(lifeline, 64):
            return False
        try:
            # As from a terminal: a command that the program waits for stops as well.
            os.killpg(program, SIGINT)
        except OSError:
            os.kill(program, SIGINT)  # it leads no group
        os.write(lifeline, b"I")
    except ProcessLookupError:
        return True  # it has just ended
    except OSError:
        return False
    return True


def wait_for(program: int, lifeline: int, woken: int) -> int:
    """Returns the program's exit status, 128 + the signal that ended it, or KILLED if the line was
    cut."""
    while True:
        try:
            # All the dead are collected: orphans that nobody waits for would use up process
            # numbers.
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == program:
                    status = os.waitstatus_to_exitcode(ended[1])
                    return status if status >= 0 else 128 - status
        except ChildProcessError:
            return KILLED
        readable, _, _ = select.select([lifeline, woken], [], [])
        if lifeline in readable and not interrupt(program, lifeline):
            return KILLED
        if woken in readable:
            os.read(woken, 4096)


def wake_on_child() -> tuple[int, int]:
    """Returns a descriptor that can be read once a child has ended, and the one that wakes it."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    _signal.signal(SIGCHLD, on_child)  # pyright: ignore
    # With no handler of its own, process 1 of a namespace gets no signal from inside.
    _signal.signal(SIGINT, _signal.SIG_DFL)  # pyright: ignore
    _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)  # pyright: ignore
    return woken, wake


def watch(program: int, lifeline: int, woken: int) -> int:
    """Waits for the program or for the end of the node, and ends all that is left; returns the
    status."""
    status = wait_for(program, lifeline, woken)
    if os.getpid() != 1:
        stop_all()
    return status


def guard(lifeline: int) -> None:
    """Splits in two: returns in the child, which runs the program; the parent watches and never
    returns."""
    control = None
    if os.getpid() != 1:
        import ctypes

        control = ctypes.CDLL(None).prctl
        control(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    program = os.fork()
    if program == 0:
        os.close(lifeline)
        if control is not None:
            control(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        return
    woken, wake = wake_on_child()
    keep_open([lifeline, woken, wake])
    os._exit(watch(program, lifeline, woken))


if __name__ == "__main__":
    guard(int(sys.argv.pop(1)))
