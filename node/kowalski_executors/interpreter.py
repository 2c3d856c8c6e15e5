"""Which Python runs the tasks, and which folders it needs to be seen.

It is the interpreter beneath the node's own, not the node's virtual environment: the packages that
the node was installed with are no business of a task's. A Python from the distribution lies in
/usr, which a sandbox shows anyway; one that a person built (pyenv, uv, conda) lies in its own
folder, often inside somebody's home, and only that folder is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kowalski_protocol.errors import Problem

FLAGS: Final = ("-P", "-s", "-S", "-B", "-X", "utf8")
"""Isolated from the current folder, no site-packages (which also saves 20 ms), no bytecode written,
UTF-8 whatever the locale. The environment is read (there is no `-E`): what a cell's interpreter
starts with is the node's choice alone, a task's own variables come later."""

ENVIRONMENT: Final[Mapping[str, str]] = {"PYTHONHASHSEED": "0"}
"""With one seed the same program visits a set in the same order wherever it runs, so that a session
that is made anew on another device brings the same results."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that runs tasks."""

    executable: Path
    prefix: Path


def find_interpreter() -> Interpreter:
    """Returns the interpreter that this process runs on, without its virtual environment.

    Raises Problem("sandbox_unavailable") where there is none that could be started.
    """
    beneath = getattr(sys, "_base_executable", None) or sys.executable
    if not beneath:
        raise Problem("sandbox_unavailable", "This Python does not say where its program file is.")
    executable = Path(beneath).resolve()
    if not executable.is_file():
        raise Problem("sandbox_unavailable", f"The interpreter {executable} does not exist.")
    return Interpreter(executable, Path(sys.base_prefix).resolve())


def folder_to_show(interpreter: Interpreter, private: Sequence[Path]) -> Path | None:
    """Returns the folder that must be shown besides /usr, or None where /usr is enough.

    Raises Problem("sandbox_unavailable") where showing it would show something of `private` (the
    node's home, the user's home, the work folder) as well.
    """
    prefix = interpreter.prefix
    if prefix.is_relative_to("/usr") and interpreter.executable.is_relative_to("/usr"):
        return None
    if not interpreter.executable.is_relative_to(prefix):
        raise Problem(
            "sandbox_unavailable",
            f"The interpreter {interpreter.executable} is not inside its prefix {prefix}.",
        )
    for folder in private:
        if folder.resolve().is_relative_to(prefix):
            raise Problem(
                "sandbox_unavailable",
                f"Python is installed in {prefix}, which also holds {folder}: a sandbox that shows"
                " the one would show the other.",
                mend="Install Python in a folder of its own, or use the distribution's.",
            )
    return prefix
