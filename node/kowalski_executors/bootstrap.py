"""What an interpreter in a cell runs before the program: warden, driver and zygote, compiled once.

Compiling them in the sandbox would cost each program 2 ms. The interpreter there is of the same
build as this process's, so it reads the same bytecode. The bytes lie in a file in memory that is
sealed: a process that inherits its descriptor can read it and nothing else.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import weakref
from collections.abc import Sequence
from importlib import resources
from types import CodeType

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def compiled(name: str) -> CodeType:
    """One of this package's modules that run in a cell, compiled."""
    text = (resources.files("kowalski_executors") / f"{name}.py").read_text(encoding="utf-8")
    return compile(text, f"<{name}>", "exec", dont_inherit=True, optimize=2)


class Bootstrap:
    """Code for the interpreter of a cell, and what it needs besides."""

    def __init__(self, content: Sequence[CodeType | Sequence[CodeType] | bytes]) -> None:
        data = marshal.dumps(content)  # pyright: ignore[reportArgumentType]
        self.descriptor = os.memfd_create("kowalski-driver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self.descriptor)
        os.write(self.descriptor, data)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        # The offset is shared with all who inherit it, so nobody may move it.
        self.read = f"marshal.loads(os.pread({self.descriptor}, {len(data)}, 0))"
        """The expression that gives the content back in the cell."""


def driver() -> Bootstrap:
    """The warden and the driver, for a cold start."""
    return Bootstrap([compiled("warden"), compiled("driver")])
