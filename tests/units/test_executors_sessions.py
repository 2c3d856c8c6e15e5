"""Sessions of the code executor: what stays from cell to cell, how cells end, how an interpreter is
made anew, and which are kept."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kowalski_executors.code_executor import CodeExecutor
from kowalski_executors.sessions import Sessions
from kowalski_node.executor import Completed, Failed, Rebuilt
from kowalski_node.runner import Runner
from tests.ports.executors import CANCEL_S, children, open_descriptors, python, until
from tests.ports.sessions import Talk, served

WAYS = [
    pytest.param({}, marks=pytest.mark.needs_bubblewrap, id="warm"),
    pytest.param({"warm": False}, marks=pytest.mark.needs_bubblewrap, id="cold"),
    pytest.param({"unsandboxed": True}, id="unsandboxed"),
]


@pytest.fixture(scope="module", params=WAYS)
def probed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CodeExecutor:
    """The code executor, in the sandbox and without one; it finds out once what it can run."""
    return CodeExecutor(work_root=tmp_path_factory.mktemp("work"), **request.param)


@pytest.fixture
async def executor(probed: CodeExecutor) -> AsyncIterator[CodeExecutor]:
    """The same, looked after; no session outlives its test."""
    async with served(probed):
        yield probed


@pytest.fixture(scope="module")
def unsandboxed(tmp_path_factory: pytest.TempPathFactory) -> CodeExecutor:
    """One for what does not depend on the way in which programs start."""
    return CodeExecutor(work_root=tmp_path_factory.mktemp("work"), unsandboxed=True)


@pytest.fixture
async def quick(unsandboxed: CodeExecutor) -> AsyncIterator[CodeExecutor]:
    """The same, looked after."""
    async with served(unsandboxed):
        yield unsandboxed


async def test_what_a_cell_defines_is_there_for_the_next(executor: CodeExecutor) -> None:
    talk = Talk(executor)
    assert await talk.value("x = 1") is None
    assert await talk.value("x += 1\nx") == 2
    assert await talk.value("def f(): return later") is None
    assert await talk.value("later = 'seen'\nf()") == "seen"
    assert await talk.value("def g():\n    global x\n    x = 7\ng()\nx") == 7
    assert await talk.value("open('kept', 'w').write('k')\nimport os\nos.listdir()") == ["kept"]
    assert await talk.value("open('kept').read()") == "k"
    assert talk.asked == 0


async def test_a_cell_that_fails_half_way_leaves_what_it_had_done(executor: CodeExecutor) -> None:
    talk = Talk(executor)
    failed = await talk.failed("x = 1\nprint('before')\n1 / 0\nx = 2")
    assert (failed.code, failed.sentence) == ("code_failed", "ZeroDivisionError: division by zero")
    assert failed.stdout == "before\n"
    assert await talk.value("x") == 1
    for code, told in (
        ("import sys\nsys.exit(3)", "The program left with status 3."),
        ("raise SystemExit('over')", "The program left with status 1: over"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("def deep(n): return deep(n + 1)\ndeep(0)", "RecursionError: maximum recursion depth"),
        ("input()", "EOFError: EOF when reading a line"),
    ):
        failed = await talk.failed(code)
        assert failed.code == "code_failed"
        assert failed.sentence.startswith(told)
        assert await talk.value("x") == 1
    for code in ("exit()", "quit()", "import sys\nsys.exit()"):
        assert await talk.value(code) is None
    assert await talk.value("x") == 1
    assert talk.asked == 0


async def test_a_traceback_shows_the_lines_of_cells_long_past(quick: CodeExecutor) -> None:
    talk = Talk(quick)
    await talk.completed("def inner():\n    raise KeyError('deep')")
    await talk.completed("def outer():\n    inner()")
    failed = await talk.failed("outer()")
    assert failed.stderr.splitlines()[:7] == [
        "Traceback (most recent call last):",
        '  File "<cell 3>", line 1, in <module>',
        "    outer()",
        '  File "<cell 2>", line 2, in outer',
        "    inner()",
        '  File "<cell 1>", line 2, in inner',
        "    raise KeyError('deep')",
    ]
    failed = await talk.failed("a = 1\nb = = 2")
    assert '  File "<cell 4>", line 2\n    b = = 2\n' in failed.stderr
    assert await talk.value("import inspect\ninspect.getsource(outer)") == (
        "def outer():\n    inner()\n"
    )


async def test_things_of_main_are_pickled_and_are_dataclasses(quick: CodeExecutor) -> None:
    talk = Talk(quick)
    await talk.completed("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int")
    code = "import pickle\npickle.loads(pickle.dumps(P(4))) == P(4), P.__module__"
    assert await talk.value(code) == [True, "__main__"]
    await talk.completed("from __future__ import annotations")
    assert await talk.value("def f(a: nobody): pass\nf.__annotations__") == {"a": "nobody"}


async def test_a_forked_child_ends_with_its_cell(executor: CodeExecutor) -> None:
    talk = Talk(executor)
    done = await talk.completed(
        "import os\nchild = os.fork()\nif child == 0: print('child')\n"
        "else: status = os.waitpid(child, 0)[1]\nprint('end')\nchild > 0"
    )
    assert done.value is True
    assert sorted(done.stdout.split()) == ["child", "end", "end"]
    assert await talk.value("status") == 0


async def test_threads_go_on_between_cells(quick: CodeExecutor) -> None:
    talk = Talk(quick)
    await talk.completed(
        "import threading\ngo, went = threading.Event(), threading.Event()\n"
        "def work():\n    go.wait()\n    print('worked')\n    went.set()\n"
        "threading.Thread(target=work).start()"
    )
    done = await talk.completed("go.set()\nwent.wait(5)")
    assert (done.value, done.stdout) == (True, "worked\n")


async def test_closed_streams_come_back_and_replaced_ones_stay(quick: CodeExecutor) -> None:
    talk = Talk(quick)
    await talk.completed("import sys\nsys.stdout.close()\nsys.stderr.close()\nsys.stdin.close()")
    assert (await talk.completed("print('again')")).stdout == "again\n"
    assert "EOFError" in (await talk.failed("input()")).stderr
    await talk.completed("import io\nkept, sys.stdout = sys.stdout, io.StringIO()")
    assert (await talk.completed("print('inside')")).stdout == ""
    done = await talk.completed("inside, sys.stdout = sys.stdout, kept\nprint(inside.getvalue())")
    assert done.stdout == "inside\n\n"


async def test_output_comes_while_a_cell_runs_and_is_bounded(executor: CodeExecutor) -> None:
    talk = Talk(executor)
    done = await talk.completed("import os\nfor n in range(3): print(n)\nos.write(2, b'e')")
    assert (done.stdout, done.stderr, done.value) == ("0\n1\n2\n", "e", 1)
    assert talk.context.text("stdout") == b"0\n1\n2\n"
    done = await talk.completed("print('x' * 1_000_000)")
    assert len(done.stdout) == 1_000_001
    failed = await talk.failed("while True: print('x' * 10_000)")
    assert failed.code == "output_too_large"
    assert len(failed.stdout) == 1 << 20
    outcome = await talk.tell("done.value if 'done' in globals() else 'fresh'")
    assert isinstance(outcome, Completed)
    assert outcome.value == "fresh"
    assert outcome.rebuilt == Rebuilt(2, (), (3,))
    failed = await talk.failed("'x' * (2 << 20)")
    assert failed.code == "output_too_large"
    assert (await talk.completed("'there'")).rebuilt is None


async def test_bash_keeps_variables_functions_folder_and_options(executor: CodeExecutor) -> None:
    talk = Talk(executor, "bash")
    assert (await talk.completed('a=1; f() { echo "f $a"; }; mkdir d; cd d')).value is None
    assert (await talk.completed('f; basename "$PWD"')).stdout == "f 1\nd\n"
    await talk.completed("set -u; declare -x b=2")
    assert (await talk.completed("echo $b $-")).stdout.startswith("2 hu")
    assert (await talk.completed("read line || echo end")).stdout == "end\n"
    failed = await talk.failed("ls /nowhere")
    assert failed.sentence.startswith("The program left with status 2: ls: cannot access")
    assert (await talk.completed("echo $?")).stdout == "2\n"
    assert talk.asked == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 3\necho no", 3),
        ("false\nexit", 1),
        ("exit", 0),
        ("g() { exit 4; echo no; }\nh() { g; echo no; }\nh; echo no", 4),
        ("while true; do exit 5; done\n(echo no)\necho no | cat", 5),
        ("eval 'exit 6; echo no'\necho no", 6),
        ("(exit 7)", 7),
        ("(exit 8); true", 0),
        ("x=$(exit 9; echo no); exit $?", 9),
        ("if exit 10; then echo no; fi; echo no", 10),
        ("set -e; exit 11", 11),
        ("true | exit 12", 12),
        ("return 13; echo no", 13),
        ('echo "$((1 / 0))"\n', 1),
        ("set -e; ! true", 1),
        ("set -x; exit 14", 14),
        ("for x in 1 2; do case $x in 1) exit 15 ;; esac; done", 15),
        ("echo 'open", 2),
    ],
)
async def test_exit_in_bash_ends_the_cell_and_not_the_session(
    quick: CodeExecutor, code: str, status: int
) -> None:
    talk = Talk(quick, "bash")
    await talk.completed("kept=there")
    outcome = await talk.tell(code)
    assert outcome.stdout == ""
    if status:
        assert isinstance(outcome, Failed)
        assert outcome.code == "code_failed"
        assert outcome.sentence.startswith(f"The program left with status {status}")
    assert (await talk.completed(f"set +e\necho $kept {status}")).stdout == f"there {status}\n"
    assert talk.asked == 0


async def test_a_cell_that_ends_its_interpreter_says_so(executor: CodeExecutor) -> None:
    for language, ends in (
        ("python", ("import os\nos._exit(0)", "import os, signal\nos.kill(os.getpid(), 9)")),
        ("bash", ("set -e\nfalse", "exec true", "kill -9 $$", "set -u; echo $nothing")),
    ):
        for code in ends:
            talk = Talk(executor, language)
            await talk.completed("x=1")
            failed = await talk.failed(code)
            assert failed.code == "interpreter_lost"
            assert failed.sentence.endswith("the next cell gets a new one.")
            done = await talk.completed("x" if language == "python" else "echo $x")
            assert (done.value, done.stdout) in ((1, ""), (None, "1\n"))
            assert done.rebuilt == Rebuilt(1, (), (2,))


LONG = {
    "python": (
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
    ),
    "bash": ("while :; do :; done", "sleep 60; echo no", "sleep 60 | cat", "(while :; do :; done)"),
}


@pytest.mark.parametrize("language", LONG)
async def test_a_cell_past_its_time_is_interrupted_and_its_session_goes_on(
    executor: CodeExecutor, language: str
) -> None:
    talk = Talk(executor, language)
    await talk.completed("x=1")
    for code in LONG[language]:
        failed = await talk.failed(code, timeout_s=0.2)
        assert failed.code == "timed_out"
        assert failed.sentence.startswith("The program ran past its 0.2 s.")
        assert failed.stdout == ""
    done = await talk.completed("x" if language == "python" else "echo $x")
    assert (done.value, done.stdout) in ((1, ""), (None, "1\n"))
    assert talk.asked == 0


async def test_a_cancelled_cell_is_interrupted_and_its_session_goes_on(
    executor: CodeExecutor,
) -> None:
    talk = Talk(executor)
    await talk.completed("x = 1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.tell, "x = 2\nprint('up')\nwhile True: pass")
        with trio.fail_after(10):
            while not talk.context.writes:
                await trio.sleep(0.005)  # poll: the cell has printed
        nursery.cancel_scope.cancel()
    assert await talk.value("x") == 2
    assert talk.asked == 0


async def test_a_cell_that_does_not_heed_an_interrupt_is_killed_in_time(
    executor: CodeExecutor,
) -> None:
    took_s: list[float] = []
    for _ in range(3):
        talk = Talk(executor)
        await talk.completed("x = 1")
        began = trio.current_time()
        failed = await talk.failed(
            "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
            timeout_s=0.2,
        )
        took_s.append(trio.current_time() - began - 0.2)
        assert failed.code == "timed_out"
        assert failed.sentence.endswith("the next cell gets a new one.")
        assert (await talk.completed("x")).rebuilt == Rebuilt(1, (), (2,))
    assert min(took_s) < CANCEL_S


async def test_an_interrupt_that_crosses_the_result_hits_no_cell(executor: CodeExecutor) -> None:
    for language, code, ask in (
        ("python", "import time\ntime.sleep(0.03)", "sum(range(20_000))\n'whole'"),
        ("bash", "sleep 0.03", "i=0; while ((i < 300)); do ((i += 1)); done; echo whole"),
    ):
        talk = Talk(executor, language)
        await talk.completed("x=1")
        for step in range(40):
            await talk.tell(code, timeout_s=0.025 + step * 0.0005)
            done = await talk.completed(ask)
            assert "whole" in (done.value, done.stdout.strip())
        assert talk.asked == 0


async def test_a_blocked_interrupt_hits_no_later_cell(quick: CodeExecutor) -> None:
    talk = Talk(quick)
    await talk.completed("import signal, time\nnumbers = (signal.SIGINT,)")
    code = "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\ntime.sleep(0.25)"
    assert (await talk.failed(code, timeout_s=0.2)).code == "timed_out"
    code = "mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)\nsignal.SIGINT in mask"
    assert await talk.value(code) is True
    assert talk.asked == 0


async def test_the_cells_of_a_session_run_one_at_a_time_and_sessions_at_once(
    quick: CodeExecutor,
) -> None:
    one, other = Talk(quick), Talk(quick)
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for talk in (one, other):
            nursery.start_soon(talk.tell, "import time\nx = []\ntime.sleep(0.5)")
    assert time.perf_counter() - began < 1.0
    order: list[object] = []

    async def run(code: str, after: str) -> None:
        task = one.next(python(code), 20.0, {})
        order.append(await quick.run(task, one.context))
        assert after == ""

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(run, f"x.append({number})\ntime.sleep(0.01)\nx.append({number})", "")
    assert all(isinstance(outcome, Completed) for outcome in order)


REPLAYED = [
    "import os, random\nx = {'a', 'b', 'c', 'd', 'e'}",
    "print(x)\nprint('error', file=__import__('sys').stderr)\nhash('seed')",
    "def f(): return 1 / 0",
    "f()",
    "open('kept', 'w').write('file')",
    "import sys\nsys.exit(4)",
]


async def test_a_session_is_made_anew_on_another_device(
    executor: CodeExecutor, tmp_path: Path
) -> None:
    talk = Talk(executor)
    for code in REPLAYED:
        await talk.tell(code)
    await talk.tell("while True: pass", timeout_s=0.2)
    await talk.tell("random.random()")
    await talk.tell("", stdin="no")
    async with served(CodeExecutor(work_root=tmp_path / "other", unsandboxed=True)) as other:
        talk.executor = other
        done = await talk.completed("print(open('kept').read(), len(x))")
        assert done.stdout == "file 5\n"
        assert talk.context.text("stdout") == b"file 5\n"
        assert done.rebuilt == Rebuilt(len(REPLAYED) + 1, (8,), (7, 9))
        assert (await talk.completed("1")).rebuilt is None
        assert talk.asked == 1
        # Back on the first device the interpreter is still there, two cells behind.
        talk.executor = executor
        done = await talk.completed("len(x)")
        assert done.rebuilt == Rebuilt(2, (), (9,))


async def test_a_replay_is_bounded_and_names_the_cell_that_ends_it(quick: CodeExecutor) -> None:
    talk = Talk(quick)
    await talk.completed("import time, os")
    await talk.completed("time.sleep(0.3)")
    talk.name = "anew"
    failed = await talk.failed("1", timeout_s=0.2)
    assert failed.code == "timed_out"
    assert "anew" in failed.sentence
    await talk.completed("if not os.path.exists('once'): x = 1")
    talk.recorded[1] = talk.recorded[1].__class__(
        2, talk.recorded[1].attempt, python("os._exit(3)"), {}, True, b""
    )
    talk.name = "once more"
    failed = await talk.failed("1")
    assert failed.code == "session_lost"
    assert "cell 2" in failed.sentence


async def test_memory_stays_until_a_cell_names_another_amount(quick: CodeExecutor) -> None:
    ask = "import resource\nresource.getrlimit(resource.RLIMIT_AS)[0] >> 20"
    talk = Talk(quick)
    assert await talk.value(ask) == 512 + 64
    outcome = await talk.completed(ask, requires={"memory_mb": 256})
    assert (outcome.value, outcome.rebuilt) == (256 + 64, Rebuilt(1, (1,)))
    assert await talk.value(ask) == 256 + 64
    assert talk.asked == 1
    talk.name = "anew"
    outcome = await talk.completed(ask)
    assert outcome.value == 256 + 64
    failed = await talk.failed("1", requires={"memory_mb": "much"})
    assert failed.code == "bad_request"


@pytest.mark.parametrize(
    ("more", "language", "says"),
    [
        ({"args": ["a"]}, "python", "takes no args"),
        ({"stdin": "a"}, "bash", "takes no stdin"),
        ({"env": {"A": "b"}}, "python", "takes no env"),
        ({"outputs": ["*"]}, "python", "takes no outputs"),
        ({}, "javascript", "A session is in python or bash"),
        ({"code": "echo \0"}, "bash", "zero byte"),
        ({"code": 3}, "python", "code must be text"),
    ],
)
async def test_what_no_cell_may_have_is_refused(
    quick: CodeExecutor, more: dict[str, Any], language: str, says: str
) -> None:
    talk = Talk(quick, language)
    task = talk.next({"language": language, "code": "1", **more}, 5.0, {})
    outcome = await quick.run(task, talk.context)
    assert isinstance(outcome, Failed)
    assert outcome.code == "bad_request"
    assert says in outcome.sentence


async def test_an_idle_interpreter_is_ended_and_made_anew(tmp_path: Path) -> None:
    before = children()
    sessions = Sessions(idle_s=0.3)
    executor = CodeExecutor(work_root=tmp_path / "work", unsandboxed=True, sessions=sessions)
    async with served(executor):
        talk = Talk(executor)
        await talk.completed("x = 1")
        assert children() > before
        await until(lambda: children() == before)
        await until(lambda: not list((tmp_path / "work").glob("run-*")))
        assert (await talk.completed("x")).rebuilt == Rebuilt(1)


async def test_the_longest_idle_makes_room(tmp_path: Path) -> None:
    sessions = Sessions(live_max=2)
    executor = CodeExecutor(work_root=tmp_path / "work", unsandboxed=True, sessions=sessions)
    async with served(executor):
        first, second, third = Talk(executor), Talk(executor), Talk(executor)
        for talk in (first, second, third):
            await talk.completed("x = 1")
        assert (await second.completed("x")).rebuilt is None
        assert (await first.completed("x")).rebuilt == Rebuilt(1)
        async with trio.open_nursery() as nursery:
            for talk in (first, second):
                nursery.start_soon(talk.tell, "print(1)\nimport time\ntime.sleep(1)")
            for talk in (first, second):
                with trio.fail_after(5):
                    while not talk.context.writes:
                        await trio.sleep(0.005)  # poll: the cell has printed
            failed = await third.failed("x")
            assert failed.code == "executor_failed"
            assert "All 2 sessions" in failed.sentence


async def test_nothing_is_left_of_sessions_when_the_executor_stops(tmp_path: Path) -> None:
    before, descriptors = children(), open_descriptors()
    executor = CodeExecutor(work_root=tmp_path / "work", unsandboxed=True)
    async with served(executor):
        for language in ("python", "bash", "python"):
            talk = Talk(executor, language)
            await talk.completed("x=1")
    assert children() == before
    assert open_descriptors() <= descriptors + 4  # what the confinement itself keeps
    assert list((tmp_path / "work").glob("run-*")) == []


async def test_a_node_that_stops_ends_its_sessions(tmp_path: Path) -> None:
    before = children()
    executor = CodeExecutor(work_root=tmp_path / "work", unsandboxed=True)
    await executor.probe()
    # What it does with attempts is not asked of it here.
    unused: dict[str, Any] = dict.fromkeys([*inspect.signature(Runner).parameters][1:])
    async with trio.open_nursery() as nursery:
        await nursery.start(Runner([executor], **unused).run)
        await Talk(executor).completed("x = 1")
        assert children() > before
        nursery.cancel_scope.cancel()
    assert children() == before
    assert list((tmp_path / "work").glob("run-*")) == []


@pytest.mark.needs_bubblewrap
async def test_a_round_trip_takes_about_a_quarter_of_a_millisecond(tmp_path: Path) -> None:
    async with served(CodeExecutor(work_root=tmp_path / "work")) as executor:
        talk = Talk(executor)
        await talk.completed("x = 0")
        samples_s: list[float] = []
        for _ in range(100):
            began = time.perf_counter()
            await talk.completed("x += 1")
            samples_s.append(time.perf_counter() - began)
        assert await talk.value("x") == 100
        assert min(samples_s) < 0.001
