"""The program that runs a task's Python inside the sandbox, one per attempt.

The node compiles it once and hands it to a bare interpreter (`python -I -S -B`), so it imports
nothing of this project, and as little as it can of the standard library: an interpreter that starts
in 6 ms should not spend 10 on imports. It talks to the node over two pipes besides the standard
streams:

    node → driver (request)   one line: the mode and the lengths of the parts; then the parts, of
                              which the first is what the environment has besides:
                              python   the source, then the arguments
                              session  the code that goes on from here (see `session_driver.py`),
                                       and what it takes
                              exec     the file's name, its content, the command that builds it, if
                                       one does, the command that runs it, then the arguments
                              Before either name "collect+" has somebody stand over the program
                              who sends the files that it leaves; then come first that one's code
                              and what it is asked for (see `collector.py`), and each frame below
                              says behind its tag how long it is.
    driver → node (result)    b"R" once the sandbox stands, then at most one of
                              b"V" + JSON              the value of the last expression
                              b"E" + text              the last line of the traceback
                              b"M" + text              the same, and memory was what ran out
                              b"X" + number + b" " + text  the program left with this exit status
                              b"L"                     the value is larger than it may be
                              b"C0\n"                  the program could not be built
                              b"P" + size + b"\n" + bytes  what was built, to be kept

The node sends the source only after b"R": by then every process of the sandbox is bound to die with
the node, and if the node died before, the request ends early and the driver leaves without having
run anything. All that a program can forge here is its own result; the node takes it as hostile all
the same.
"""

from __future__ import annotations

import _ast
import builtins
import os
import sys
from io import TextIOWrapper
from types import CodeType, ModuleType, TracebackType

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` and `collections.abc` would be imported for their names alone
    from collections.abc import Callable
    from typing import Any

FILE_NAME = "<task>"
"""What tracebacks call the program's text."""

OWN_FILES = ("<driver>", "<session_driver>")
"""What the files are called that no traceback shows at its beginning (see `bootstrap.compiled`)."""

ONLY_AST = 0x400  # ast.PyCF_ONLY_AST, without importing ast
DEPTH_MAX = 100
COLLECT = "collect+"
SESSION = b"session"
SENTENCE_CHARACTERS_MAX = 500
RESERVES = {"RLIMIT_AS": 8 << 20, "RLIMIT_NOFILE": 8, "RLIMIT_CPU": 1}
"""By how much the hard limit is above the soft one: what the report of a program that used up its
memory or its descriptors needs, and the second between the signal that has a name and the kill."""


class NotJson(Exception):
    """The value has no exact form in JSON."""


def encode(value: object, depth: int = 0) -> str:
    """Returns the JSON text of a value made of None, bool, int, float, str, list, tuple and dict.

    Raises NotJson for everything else, for numbers that JSON readers can't hold, and for text that
    is not Unicode.
    """
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise NotJson
        return int.__repr__(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise NotJson
        return float.__repr__(value)
    if depth >= DEPTH_MAX:
        raise NotJson
    if isinstance(value, (list, tuple)):
        items = [encode(item, depth + 1) for item in value]  # pyright: ignore
        return "[" + ",".join(items) + "]"
    if isinstance(value, dict):
        pairs: list[str] = []
        for key, item in value.items():  # pyright: ignore
            if not isinstance(key, str):
                raise NotJson
            pairs.append(encode_text(key) + ":" + encode(item, depth + 1))  # pyright: ignore
        return "{" + ",".join(pairs) + "}"
    raise NotJson


def encode_text(text: str) -> str:
    """Returns a string as JSON in ASCII; raises NotJson where it holds half of a surrogate pair."""
    from _json import encode_basestring_ascii

    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotJson from None
    return encode_basestring_ascii(text)


def value_frame(value: object, value_bytes_max: int) -> bytes:
    """Returns the frame for a value: its JSON, or where it has none, its `repr` as a JSON
    string."""
    try:
        text = encode(value)
    except NotJson:
        shown = repr(value).encode("utf-8", "backslashreplace").decode()
        text = encode_text(shown)
    return b"V" + text.encode() if len(text) <= value_bytes_max else b"L"


def confine(limits: dict[str, int]) -> Callable[[], None]:
    """Sets the bounds that the kernel keeps, for this process and all that it starts, for good.

    Returns what lets the driver have a little more at the end, to report on a program that used up
    everything.
    """
    import resource

    kept: list[tuple[int, int]] = []
    for name, bound in limits.items():
        kind = getattr(resource, name, None)
        if kind is None:  # this system has no such limit
            continue
        upper = bound + RESERVES.get(name, 0)
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            bound, upper = min(bound, hard), min(upper, hard)
        resource.setrlimit(kind, (bound, upper))
        if name in ("RLIMIT_AS", "RLIMIT_NOFILE"):
            kept.append((kind, upper))
    # Under pressure the node must go on: it lets programs wait, and lets the kernel end them first.
    os.nice(5)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")
    except OSError:
        pass

    def use_reserves() -> None:
        for kind, upper in kept:
            resource.setrlimit(kind, (upper, upper))

    return use_reserves


def read_exactly(descriptor: int, size: int) -> bytes:
    """Reads `size` bytes, or leaves the process: a request that ends early has no sender any
    more."""
    parts: list[bytes] = []
    while size > 0:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            os._exit(125)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_request(descriptor: int) -> tuple[str, list[bytes]]:
    """Returns the mode and the parts that go with it."""
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(descriptor, 1)
    mode, *sizes = line.split()
    parts = [read_exactly(descriptor, int(size)) for size in sizes]
    if mode == SESSION:
        os.set_inheritable(descriptor, False)  # its cells come over the same pipe
    else:
        os.close(descriptor)
    return mode.decode(), parts


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def parts_by_text(
    source: str, name: str = FILE_NAME, flags: int = 0
) -> tuple[CodeType, CodeType] | None:
    """Returns what comes before the last expression and that expression, or None where the text
    alone does not tell them apart.

    The last line that begins a statement is taken for one; it is when both halves compile. A half
    that ends in the middle of a string, a bracket or a statement does not.
    """
    start = len(source)
    while start > 0:
        start = source.rfind("\n", 0, start - 1) + 1
        if source[start : start + 1] not in " \t\f\r\n#)]}":
            break
    before, last = source[:start], source[start:]
    try:
        # As many empty lines before it, so that a traceback names the right one.
        expression = compile("\n" * before.count("\n") + last, name, "eval", flags, True)
        return compile(before, name, "exec", flags, True), expression
    except (SyntaxError, ValueError):
        return None


def parts_by_tree(
    source: str, name: str = FILE_NAME, flags: int = 0
) -> tuple[CodeType, CodeType | None]:
    """Returns the same for any program, and None for a last statement that is no expression. It
    takes three times as long."""
    tree = compile(source, name, "exec", ONLY_AST | flags, dont_inherit=True)
    assert isinstance(tree, _ast.Module)
    last: _ast.Expression | None = None
    if tree.body and isinstance(tree.body[-1], _ast.Expr):
        last = _ast.Expression(tree.body[-1].value)
        del tree.body[-1]
    before = compile(tree, name, "exec", flags, True)
    return before, compile(last, name, "eval", flags, True) if last else None


def execute(source: str, namespace: dict[str, object]) -> object:
    """Runs a program as a notebook runs a cell: returns the value of the last expression, else
    None."""
    before, last = parts_by_text(source) or parts_by_tree(source)
    exec(before, namespace)
    return eval(last, namespace) if last is not None else None


def lines_of(source: str) -> list[str]:
    """Returns a program's lines as Python counts them, each with its end."""
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    return [line + "\n" for line in text.split("\n")]


def report(error: BaseException, source: str, name: str = FILE_NAME) -> str:
    """Prints the traceback as Python would, without this file's own lines; returns what it says."""
    import linecache
    import traceback

    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OWN_FILES):
        trace = trace.tb_next
    linecache.cache[name] = (len(source), None, lines_of(source), name)
    traceback.print_exception(type(error), error, trace)
    # Before it may come the place of a syntax error, indented, and after it notes.
    told = traceback.format_exception_only(type(error), error)
    return next(line for line in told if not line.startswith(" ")).strip()


def conclude(error: BaseException, source: str, name: str = FILE_NAME) -> tuple[int, bytes]:
    """Tells on stderr how a program failed; returns its exit status and the frame for the node."""
    try:
        if not isinstance(error, SystemExit):
            kind = b"M" if isinstance(error, MemoryError) else b"E"
            return 1, kind + shorten(report(error, source, name))
        if isinstance(error.code, int):
            status, said = error.code & 0xFF, ""
        elif error.code is None:
            status, said = 0, ""
        else:
            status, said = 1, str(error.code)
            print(said, file=sys.stderr)  # noqa: T201
        return status, b"X%d " % status + shorten(said) if status else b""
    except BaseException:  # guard: no memory is left, or the program broke what a report needs
        return 1, (b"M" if isinstance(error, MemoryError) else b"E") + shorten(type(error).__name__)


def shorten(sentence: str) -> bytes:
    """Returns the first line of a sentence, in UTF-8, within bounds."""
    line = sentence.partition("\n")[0]
    return line[:SENTENCE_CHARACTERS_MAX].encode("utf-8", "replace")


def new_main(arguments: list[str]) -> dict[str, object]:
    """Makes the module that the program sees as its own, and returns its namespace."""
    from _sitebuiltins import Quitter

    # `site` would define these; scripts use them.
    builtins.exit = Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = Quitter("quit", "Ctrl-D (i.e. EOF)")
    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    sys.argv = [FILE_NAME, *arguments]
    return module.__dict__


def leave(status: int, namespace: dict[str, object]) -> None:
    """Ends the process as the interpreter does, but for taking itself down.

    That would touch all that was imported, which takes 10 ms where a zygote has imported much.
    What a program can see happens: threads are waited for, exit functions run, objects end, and
    what was printed is written.
    """
    import gc

    try:
        threading = sys.modules.get("threading")
        try:
            if threading is not None:
                threading._shutdown()  # noqa: SLF001
            if "atexit" in sys.modules:
                sys.modules["atexit"]._run_exitfuncs()  # noqa: SLF001
        except BaseException as error:  # guard: an exit function's mistake changes no status
            sys.excepthook(type(error), error, error.__traceback__)
        # A thread that goes on meanwhile must find its names.
        if threading is None or threading.active_count() == 1:
            namespace.clear()
            gc.collect()
    finally:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                if stream is not None and not stream.closed:
                    stream.flush()
            except BaseException:  # guard: as the interpreter does at its end
                status = status or 120
        os._exit(status)


def built(command: list[str]) -> int:
    """Runs the command that builds a program; returns its exit status."""
    child = os.fork()
    if child == 0:
        # What is built is kept for whoever has the same source, so nothing else may go into it.
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        try:
            os.execv(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error}\n".encode())
        os._exit(127)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def take_place(parts: list[bytes], folder: str, result: int, kept_bytes_max: int) -> None:
    """Builds a program of another language, if need be, and becomes it; never returns.

    What was built goes to the node before any of it runs, so that it is what the compiler made.
    """
    import _signal  # pyright: ignore[reportMissingImports]
    import resource

    file, content, build, run, *arguments = parts
    os.mkdir(folder, 0o700)  # noqa: PTH102
    path = f"{folder}/{file.decode()}"
    with open(path, "wb") as opened:  # noqa: PTH123
        opened.write(content)
    os.chmod(path, 0o700)  # noqa: PTH101

    def words(command: bytes) -> list[str]:
        return [word.decode().replace("{folder}", folder) for word in command.split(b"\0")]

    # The interpreter ignores these; a program expects them as they are.
    for number in (13, 25):  # SIGPIPE, SIGXFSZ
        _signal.signal(number, _signal.SIG_DFL)  # pyright: ignore
    if build:
        status = built(words(build))
        if status:
            write_all(result, b"C0\n")
            os._exit(status if status > 0 else 128 - status)
        with open(f"{folder}/program", "rb") as opened:  # noqa: PTH123
            program = opened.read(kept_bytes_max + 1)
        if len(program) <= kept_bytes_max:
            write_all(result, b"P%d\n" % len(program) + program)
        # Its compiler may have mapped more than it used, and the program has no need to.
        bound = resource.getrlimit(resource.RLIMIT_DATA)[0]
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    command = words(run)
    try:
        os.execv(command[0], [*map(os.fsencode, command), *arguments])
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
        os._exit(127)


def main() -> None:
    """Runs one program; the process then ends with the status that the program chose."""
    result = int(sys.argv[1])
    request = int(sys.argv[2])
    value_bytes_max = int(sys.argv[3])
    kept_bytes_max = int(sys.argv[4])
    limits = {name: int(bound) for name, _, bound in (a.partition("=") for a in sys.argv[5:])}
    # Whatever else was open in the node's or the sandbox's start-up ends here.
    low, high = sorted((result, request))
    os.closerange(3, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, 1 << 16)
    os.set_inheritable(result, False)
    use_reserves = confine(limits)
    write_all(result, b"R")
    mode, (environment, *parts) = read_request(request)
    # The cell's choice, and not the task's.
    folder = os.environ.get("TMPDIR", "/tmp") + "/program"
    for variable in environment.split(b"\0") if environment else ():
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
        if name == b"TZ":
            import time

            time.tzset()
    sends_files = mode.startswith(COLLECT)
    if sends_files:
        import marshal

        mode = mode.removeprefix(COLLECT)
        code, asked, *parts = parts
        collector: dict[str, Any] = {"__name__": "collector"}
        exec(marshal.loads(code), collector)
        collector["stand_over"](result, asked, folder)
    if mode == "session":
        import marshal

        code, *parts = parts
        session: dict[str, Any] = {"__name__": "session_driver"}
        exec(marshal.loads(code), session)
        session["serve"](globals(), request, result, value_bytes_max, parts)
    os.environ.pop("PYTHONHASHSEED", None)
    if mode == "exec":
        take_place(parts, folder, result, kept_bytes_max)
    source, *arguments = [part.decode() for part in parts]
    own_module = sys.modules["__main__"]  # kept, or Python would clear the names used below
    namespace = new_main(arguments)
    own_id = os.getpid()
    status = 0
    frame = b""
    try:
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, TextIOWrapper)
            stream.reconfigure(line_buffering=True)
        value = execute(source, namespace)
        use_reserves()
        frame = value_frame(value, value_bytes_max)
    except BaseException as error:  # guard: whatever the program raises is its outcome
        use_reserves()
        status, frame = conclude(error, source)
    # A child that the program forked comes here as well, and has no say in the result.
    if frame and os.getpid() == own_id:
        head = b"%c%d\n" % (frame[0], len(frame) - 1) if sends_files else frame[:1]
        write_all(result, head + frame[1:])
    del own_module
    leave(status, namespace)


if __name__ == "__main__":
    main()
