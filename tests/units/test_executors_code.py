"""How programs end: the value, what was printed, and the sentence for every way to fail.

Real programs in the real sandbox, some also without one; what hostile programs try is in
`tests/attacks/test_sandbox_attacks.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kowalski_executors import make_executors
from kowalski_executors.code_executor import CodeExecutor
from kowalski_executors.endings import built_of
from kowalski_executors.supervisor import Ending
from kowalski_node.executor import Completed, Failed
from tests.ports.executors import Recorder, attempt, completion, failure, python


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({}, marks=pytest.mark.needs_bubblewrap, id="warm"),
        pytest.param({"warm": False}, marks=pytest.mark.needs_bubblewrap, id="cold"),
        pytest.param({"unsandboxed": True}, id="unsandboxed"),
    ],
)
def executor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CodeExecutor:
    """The code executor, in the sandbox and without one; it probes itself at its first run."""
    return CodeExecutor(work_root=tmp_path_factory.mktemp("work"), **request.param)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("", None),
        ("1 + 1", 2),
        ("x = [1, (2, 3)]\n{'x': x, 'n': None}", {"x": [1, [2, 3]], "n": None}),
        ("'snow\\N{SNOWMAN}' * 2", "snow☃snow☃"),
        ("2 ** 63", 2**63),
        ("2 ** 64", str(2**64)),
        ("{1: 2}", "{1: 2}"),
        ("float('nan')", "nan"),
        ("import sys\nsys.exit(0)", None),
        ("import sys\nsys.exit()", None),
        ("exit()", None),
        ("import os\nos._exit(0)", None),
        ("__name__", "__main__"),
        ("import __main__\nx = 3\n__main__.x", 3),
        ("def f(): return x\nx = 9\nf()", 9),
        ("import os\nsorted(os.listdir('.'))", []),
        ("open('a', 'w').write('b')\nopen('a').read()", "b"),
    ],
)
async def test_the_value_is_the_last_expressions(
    executor: CodeExecutor, code: str, value: object
) -> None:
    assert (await completion(executor, code)).value == value


async def test_input_arguments_and_output_are_the_programs(executor: CodeExecutor) -> None:
    code = """
import sys
print(sys.stdin.read().upper())
print("to stderr", file=sys.stderr)
sys.argv
"""
    outcome = await completion(
        executor, code, stdin="grüße\n" * 20_000, args=["a b", "", "ü", "-x"]
    )
    assert outcome.stdout == "GRÜSSE\n" * 20_000 + "\n"
    assert outcome.stderr == "to stderr\n"
    assert outcome.value == ["<task>", "a b", "", "ü", "-x"]


async def test_the_standard_input_is_empty_unless_there_is_one(executor: CodeExecutor) -> None:
    assert (await completion(executor, "import sys\nsys.stdin.read()")).value == ""


async def test_a_long_program_arrives_whole(executor: CodeExecutor) -> None:
    code = "x = 0\n" + "x += 1\n" * 100_000 + "x"
    assert (await completion(executor, code)).value == 100_000


async def test_a_traceback_shows_the_programs_own_lines(executor: CodeExecutor) -> None:
    code = "def inner(n):\n    return 1 / n\n\ndef outer():\n    inner(0)\n\nouter()\n"
    outcome = await failure(executor, code)
    assert outcome.code == "code_failed"
    assert outcome.sentence == "ZeroDivisionError: division by zero"
    lines = [line for line in outcome.stderr.splitlines() if "File" in line]
    assert lines == [
        '  File "<task>", line 7, in <module>',
        '  File "<task>", line 5, in outer',
        '  File "<task>", line 2, in inner',
    ]
    assert "    return 1 / n" in outcome.stderr
    assert outcome.stderr.startswith("Traceback (most recent call last):\n")
    assert outcome.stderr.endswith("ZeroDivisionError: division by zero\n")


async def test_the_last_expressions_failure_has_its_line_too(executor: CodeExecutor) -> None:
    outcome = await failure(executor, "x = 1\n\n[][x]")
    assert 'File "<task>", line 3, in <module>' in outcome.stderr


async def test_a_syntax_error_is_told_like_any_other(executor: CodeExecutor) -> None:
    outcome = await failure(executor, "x = 1\ny = (\n")
    assert outcome.code == "code_failed"
    assert outcome.sentence == "SyntaxError: '(' was never closed"
    assert 'File "<task>", line 2' in outcome.stderr


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sys\nsys.exit(3)", "status 3"),
        ("import sys\nsys.exit('no luck')", "status 1: no luck"),
        ("raise SystemExit(300)", "status 44"),
        ("import os\nos._exit(7)", "status 7"),
        ("import os\nos.abort()", "SIGABRT"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os\nos.kill(os.getpid(), 9)", "SIGKILL"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
        ("e = ValueError('a')\ne.add_note('more')\nraise e", "ValueError: a"),
        ("raise BaseException", "BaseException"),
        ("import atexit, os\natexit.register(os._exit, 5)\n1", "status 5"),
        ("def f(): f()\nf()", "RecursionError"),
        ("'\\0' and exec('\\0')", "null bytes"),
        ("\0", "null bytes"),
        ("class A:\n    def __repr__(self): raise KeyError(1)\nA()", "KeyError"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E"),
        ("import sys\nsys.stderr = None\nsys.stdout = 5\n1 / 0", "ZeroDivisionError"),
        ("import sys\nsys.modules.clear()\n1 / 0", "ZeroDivisionError"),
        ("import builtins\nbuiltins.__dict__.clear()\n1 / 0", ""),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import trio", "ModuleNotFoundError"),
    ],
)
async def test_every_bad_end_has_its_sentence(
    executor: CodeExecutor, code: str, sentence: str
) -> None:
    outcome = await failure(executor, code)
    assert outcome.code == "code_failed"
    assert sentence in outcome.sentence


async def test_what_was_printed_before_a_bad_end_is_kept(executor: CodeExecutor) -> None:
    outcome = await failure(executor, "print('before')\nimport os\nos._exit(1)")
    assert outcome.stdout == "before\n"


async def test_what_was_printed_before_the_deadline_is_kept(executor: CodeExecutor) -> None:
    outcome = await failure(executor, "print('before')\nwhile True: pass", timeout_s=0.5)
    assert outcome.code == "timed_out"
    assert outcome.stdout == "before\n"
    assert "0.5 s" in outcome.sentence


async def test_a_value_that_is_too_large_says_so(executor: CodeExecutor) -> None:
    outcome = await failure(executor, "'x' * (2 << 20)")
    assert outcome.code == "output_too_large"
    assert "value" in outcome.sentence


async def test_forked_children_have_no_say_in_the_value(executor: CodeExecutor) -> None:
    code = """
import os
child = os.fork()
if child:
    os.waitpid(child, 0)
"parent" if child else "child"
"""
    outcome = await completion(executor, code)
    assert outcome.value == "parent"


async def test_threads_are_waited_for(executor: CodeExecutor) -> None:
    code = """
import threading, time
def late():
    time.sleep(0.2)
    print("late")
threading.Thread(target=late).start()
"early"
"""
    outcome = await completion(executor, code)
    assert (outcome.value, outcome.stdout) == ("early", "late\n")


async def test_pools_of_threads_and_processes_work(executor: CodeExecutor) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import multiprocessing
import time

def square(n):
    time.sleep(0.01)
    return n * n

with ThreadPoolExecutor(32) as pool:
    by_threads = sum(pool.map(square, range(100)))
with multiprocessing.get_context("fork").Pool(4) as pool:
    by_processes = sum(pool.map(square, range(100)))
by_threads, by_processes
"""
    assert (await completion(executor, code)).value == [328350, 328350]


async def test_nothing_of_the_nodes_environment_reaches_a_program(
    executor: CodeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOWALSKI_API_TOKEN", "canary-5f2c")
    code = """
import os
found = [dict(os.environ)]
for name in os.listdir("/proc"):
    try:
        found.append(open(f"/proc/{name}/environ").read() if name in (str(os.getpid()), "1") else 0)
    except OSError:
        pass
repr(found)
"""
    assert "canary-5f2c" not in (await completion(executor, code)).value


@pytest.mark.needs_bubblewrap
async def test_the_whole_standard_library_can_be_imported_in_the_sandbox(tmp_path: Path) -> None:
    """As much of it as the same interpreter imports outside."""
    code = """
import importlib, io, sys
sys.stdout = io.StringIO()
failed = []
for name in sorted(sys.stdlib_module_names - {"antigravity", "this", "__main__"}):
    try:
        importlib.import_module(name)
    except ImportError:
        failed.append(name)
failed
"""
    outside = CodeExecutor(work_root=tmp_path / "outside", unsandboxed=True)
    inside = CodeExecutor(work_root=tmp_path / "inside")
    expected = (await completion(outside, code)).value
    assert (await completion(inside, code)).value == expected
    assert len(expected) < 30


async def test_a_program_gets_the_memory_that_it_requires(executor: CodeExecutor) -> None:
    code = "x = bytearray(b'x') * (300 << 20)\nlen(x) >> 20"
    task = attempt(python(code), requires={"memory_mb": 64})
    outcome = await executor.run(task, Recorder())
    assert isinstance(outcome, Failed)
    assert outcome.code == "out_of_memory"
    assert "64 MiB" in outcome.sentence
    task = attempt(python(code), requires={"memory_mb": 400})
    assert await executor.run(task, Recorder()) == Completed(300)


async def test_the_kernel_keeps_the_limits_too(executor: CodeExecutor) -> None:
    code = """
import resource
{name: resource.getrlimit(getattr(resource, name))
 for name in ("RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE")}
"""
    limits = (await completion(executor, code, timeout_s=10)).value
    assert limits["RLIMIT_AS"] == [576 << 20, 584 << 20]
    assert limits["RLIMIT_CORE"] == [0, 0]
    assert limits["RLIMIT_NOFILE"] == [256, 264]
    assert limits["RLIMIT_FSIZE"] == [256 << 20] * 2
    soft, hard = limits["RLIMIT_CPU"]
    assert 10 < soft < hard < 10_000


async def test_processor_time_has_its_own_end(executor: CodeExecutor) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
while True: pass
"""
    outcome = await failure(executor, code)
    assert outcome.code == "timed_out"
    assert "processor time" in outcome.sentence


@pytest.mark.slow
@pytest.mark.needs_bubblewrap
async def test_a_program_outlives_ten_seconds_of_nothing_else_happening(tmp_path: Path) -> None:
    """A process that is bound to a worker thread's life would be killed with the idle thread."""
    executor = CodeExecutor(work_root=tmp_path)
    with trio.fail_after(20):
        outcome = await completion(executor, "import time\ntime.sleep(11.5)\n'there'")
    assert outcome.value == "there"


async def test_an_executor_probes_by_itself_when_nobody_did(tmp_path: Path) -> None:
    executors = make_executors(unsandboxed=True, work_root=tmp_path / "new" / "folder")
    assert [executor.name for executor in executors] == ["tool", "code", "graph"]
    assert (await completion(executors[1], "6 * 7")).value == 42


LATE = """
import threading, time
def work():
    time.sleep(0.2)
    print('late')
threading.Thread(target=work).start()
4
"""
ENDS = {
    "a closed stdout": ("import sys\nprint('x')\nsys.stdout.close()\n1", 1, "x\n"),
    "no stdout": ("import sys\nprint('x', end='')\nsys.stdout = None\n2", 2, "x"),
    "another stdout": (
        "import io, sys\nprint('x', end='')\nsys.stdout = io.StringIO()\n3", 3, "x"
    ),
    "a thread that goes on": (LATE, 4, "late\n"),
    "an exit function": ("import atexit\natexit.register(print, 'bye')\n5", 5, "bye\n"),
    "an exit function that fails": ("import atexit\natexit.register(int, 'x')\n6", 6, ""),
    "a hook that fails": (
        "import atexit, sys\nsys.excepthook = None\natexit.register(int, 'x')\n7", 7, ""
    ),
    "an object with an end": (
        "class A:\n  def __del__(self): print('end')\na = A()\n8", 8, "end\n"
    ),
    "a cycle with an end": (
        "class A:\n  def __del__(self): print('end')\na = A()\na.a = a\n9", 9, "end\n"
    ),
    "streams that say what they are": (
        "import sys\nprint(sys.stdin.seekable(), sys.stdout.seekable())\n10", 10,
        "False False\n",
    ),
    "a variable for the time zone": (
        "import os, time\nos.environ['TZ'] = 'UTC-3'\ntime.tzset()\ntime.timezone", -10800, ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
async def test_a_program_ends_as_it_does_outside(executor: CodeExecutor, how: str) -> None:
    code, value, printed = ENDS[how]
    outcome = await executor.run(attempt(python(code)), Recorder())
    assert isinstance(outcome, Completed), outcome
    assert (outcome.value, outcome.stdout) == (value, printed)


async def test_a_task_chooses_its_time_zone_and_not_where_its_program_lies(
    executor: CodeExecutor,
) -> None:
    code = "import time\ntime.timezone"
    for zone, expected in (("UTC-3", -10800), ("UTC+5", 18000)):
        payload = python(code, env={"TZ": zone, "TMPDIR": "/nowhere"})
        outcome = await executor.run(attempt(payload), Recorder())
        assert isinstance(outcome, Completed), outcome
        assert outcome.value == expected


@pytest.mark.parametrize(
    ("frame", "built"),
    [
        (b"P3\nabc", b"abc"),
        (b"P0\n", b""),
        (b"P3\nab", None),
        (b"P3\nabcd", None),
        (b"P3", None),
        (b"P", None),
        (b"", None),
        (b"V1", None),
        (b"P-1\n", None),
    ],
)
def test_only_a_program_that_came_whole_is_kept(frame: bytes, built: bytes | None) -> None:
    assert built_of(Ending(frame=bytearray(frame))) == built
