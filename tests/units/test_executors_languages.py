"""Programs in Bash, JavaScript, Rust and Java: real ones, from real input, and how they end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from kowalski_executors import compiled as compiled_module
from kowalski_executors.code_executor import CodeExecutor
from kowalski_executors.compiled import Compiled
from kowalski_executors.language_probe import Remembered
from kowalski_executors.languages import find_languages
from kowalski_executors.sandbox_probe import probe_sandbox
from kowalski_node.executor import Completed, Failed, Outcome
from tests.ports.executors import SANDBOXES, Recorder, attempt, children

pytestmark = pytest.mark.needs_bubblewrap

HERE = {language.name for language in find_languages()}
OTHERS = ("bash", "javascript", "rust", "java")

WORDS = "the quick brown fox jumps over the lazy dog the end"

COUNT = {
    "bash": """
while read -r -a words; do for word in "${words[@]}"; do ((count[${#word}]++)); done; done
for size in "${!count[@]}"; do echo "$1 $size ${count[$size]}"; done
""",
    "javascript": """
const counts = {};
const text = require("fs").readFileSync(0, "utf8");
for (const word of text.trim().split(/\\s+/)) counts[word.length] = (counts[word.length] || 0) + 1;
for (const size of Object.keys(counts).sort()) console.log(process.argv[2], size, counts[size]);
""",
    "rust": """
use std::collections::BTreeMap;
use std::io::Read;
fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for word in text.split_whitespace() { *counts.entry(word.len()).or_default() += 1; }
    let mark = std::env::args().nth(1).unwrap();
    for (size, count) in counts { println!("{mark} {size} {count}"); }
}
""",
    "java": """
import java.util.*;
class Count {
    public static void main(String[] args) {
        Map<Integer, Integer> counts = new TreeMap<>();
        Scanner words = new Scanner(System.in);
        while (words.hasNext()) counts.merge(words.next().length(), 1, Integer::sum);
        counts.forEach((size, count) -> System.out.println(args[0] + " " + size + " " + count));
    }
}
""",
}
EXPECTED = "a b 3 6\na b 4 2\na b 5 3\n"

BROKEN = {
    "bash": ("if then", "code_failed", "syntax error"),
    "javascript": ("let x = ;", "code_failed", "SyntaxError"),
    "rust": ('fn main() { let x: i32 = "a"; }', "code_failed", "can't be compiled: error[E0308]"),
    "java": ("class A { int x = true; }", "code_failed", "incompatible types"),
}
FAILING = {
    "bash": ("cd /nowhere || exit 7", "status 7"),
    "javascript": ("throw new RangeError('too far')", "RangeError: too far"),
    "rust": ('fn main() { panic!("stop"); }', "panicked"),
    "java": (
        "class A { public static void main(String[] a) { Object o = null; o.hashCode(); } }",
        "NullPointerException",
    ),
}
HUNGRY = {
    "bash": "x=x; while true; do x=$x$x; done",
    "javascript": "const kept = []; while (true) kept.push(new Float64Array(1 << 20).fill(1));",
    "rust": "fn main() { let mut v = Vec::new(); loop { v.push(vec![1u8; 1 << 24]); } }",
    "java": (
        "class A { public static void main(String[] a) { var kept = new java.util.ArrayList<>();"
        " while (true) kept.add(new byte[1 << 24]); } }"
    ),
}
ENDLESS = {
    "bash": "while true; do :; done",
    "javascript": "while (true) {}",
    "rust": "fn main() { loop {} }",
    "java": "class A { public static void main(String[] a) { while (true) {} } }",
}


def program(language: str, code: str, **more: Any) -> dict[str, Any]:
    return {"language": language, "code": code, **more}


@pytest.fixture(scope="module", params=list(SANDBOXES))
def executor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CodeExecutor:
    """The code executor with all its languages."""
    work_root = tmp_path_factory.mktemp("home") / "work"
    executor = CodeExecutor(work_root=work_root, **SANDBOXES[request.param])
    trio.run(executor.probe_all)
    return executor


@pytest.fixture(params=OTHERS)
def language(request: pytest.FixtureRequest) -> str:
    if request.param not in HERE:
        pytest.skip(f"{request.param} is not installed here")
    return request.param


async def run(
    executor: CodeExecutor, payload: dict[str, Any], *, timeout_s: float = 30.0, memory_mb: int = 0
) -> Outcome:
    requires = {"memory_mb": memory_mb} if memory_mb else {}
    task = attempt(payload, kind="code", timeout_s=timeout_s, requires=requires)
    return await executor.run(task, Recorder())


async def test_a_program_counts_the_words_of_its_input(
    executor: CodeExecutor, language: str
) -> None:
    payload = program(language, COUNT[language], stdin=WORDS + "\n", args=["a b"])
    for _ in range(2):  # the second time from what was compiled
        outcome = await run(executor, payload)
        assert isinstance(outcome, Completed), outcome
        assert outcome.stdout == EXPECTED
        assert outcome.value is None
    assert children() == set()


READ_VARIABLE = {
    "bash": 'echo "$NAME"',
    "javascript": "console.log(process.env.NAME)",
    "rust": 'fn main() { println!("{}", std::env::var("NAME").unwrap()); }',
    "java": (
        "class A { public static void main(String[] a)"
        ' { System.out.println(System.getenv("NAME")); } }'
    ),
    "python": "import os\nprint(os.environ['NAME'])",
}


@pytest.mark.parametrize("name", READ_VARIABLE)
async def test_a_program_sees_the_variables_of_its_task(executor: CodeExecutor, name: str) -> None:
    if name not in {*HERE, "python"}:
        pytest.skip(f"{name} is not installed here")
    payload = program(name, READ_VARIABLE[name], env={"NAME": "a = b\tü"})
    outcome = await run(executor, payload)
    assert isinstance(outcome, Completed), outcome
    assert outcome.stdout == "a = b\tü\n"


async def test_what_is_no_program_is_told_as_its_compiler_tells_it(
    executor: CodeExecutor, language: str
) -> None:
    code, expected, sentence = BROKEN[language]
    outcome = await run(executor, program(language, code))
    assert isinstance(outcome, Failed)
    assert outcome.code == expected
    assert sentence in outcome.sentence


async def test_a_program_that_fails_says_why_in_its_sentence(
    executor: CodeExecutor, language: str
) -> None:
    code, sentence = FAILING[language]
    outcome = await run(executor, program(language, code))
    assert isinstance(outcome, Failed)
    assert outcome.code == "code_failed"
    assert sentence in outcome.sentence


async def test_memory_is_bounded_in_each_language(executor: CodeExecutor, language: str) -> None:
    # A runtime may notice by itself, and says so in its own words, or it is stopped.
    outcome = await run(executor, program(language, HUNGRY[language]), memory_mb=256)
    assert isinstance(outcome, Failed)
    assert outcome.code in {"out_of_memory", "code_failed"}
    assert outcome.code == "out_of_memory" or any(
        word in (outcome.sentence + outcome.stderr).lower()
        for word in ("memory", "allocat", "sigabrt", "sigkill")
    ), outcome


async def test_time_is_bounded_in_each_language(executor: CodeExecutor, language: str) -> None:
    began = trio.current_time()
    outcome = await run(executor, program(language, ENDLESS[language]), timeout_s=2.0)
    assert isinstance(outcome, Failed)
    assert outcome.code == "timed_out"
    assert trio.current_time() - began < 3.0
    assert children() == set()


async def test_a_language_that_is_not_here_is_named_with_those_that_are(
    executor: CodeExecutor,
) -> None:
    outcome = await run(executor, program("cobol", "DISPLAY 1."))
    assert isinstance(outcome, Failed)
    assert outcome.code == "unknown_language"
    assert "'cobol'" in outcome.sentence
    assert "python" in outcome.sentence


@pytest.mark.skipif("rust" not in HERE, reason="rust is not installed here")
async def test_a_compiled_program_can_not_be_changed_by_one_that_runs(
    executor: CodeExecutor,
) -> None:
    """It could else leave something behind for whoever runs the same source."""
    code = """
fn main() {
    let own = std::env::current_exe().unwrap();
    println!("{:?}", std::fs::write(own.with_file_name("program2"), b"x").is_ok());
    let _ = std::fs::remove_file(&own);
    println!("{:?}", std::fs::write(&own, b"#!/usr/bin/bash\\necho changed").is_ok());
}
"""
    outcomes = [await run(executor, program("rust", code)) for _ in range(3)]
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    assert {outcome.stdout for outcome in outcomes} == {"true\ntrue\n"}


@pytest.mark.skipif("rust" not in HERE, reason="rust is not installed here")
async def test_nothing_but_the_source_goes_into_what_is_kept(executor: CodeExecutor) -> None:
    code = 'fn main() { print!("{}", include_str!("/dev/stdin")); }'
    outcomes = [await run(executor, program("rust", code, stdin=text)) for text in ("one", "two")]
    assert [outcome.stdout for outcome in outcomes] == ["", ""]


# What was compiled, and what is remembered.


def test_of_what_was_compiled_the_oldest_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_module, "KEPT_BYTES_MAX", 300)
    kept = Compiled(tmp_path / "compiled")
    assert kept.get("a") is None
    for number, name in enumerate("abc"):
        kept.put(name, bytes([number]) * 100)
        (tmp_path / "compiled" / name).touch()
    assert [name for name in "abc" if kept.get(name) is not None] == ["b", "c"]
    assert kept.get("c") == bytes([2]) * 100


def test_a_compiled_program_that_is_not_whole_is_none(tmp_path: Path) -> None:
    kept = Compiled(tmp_path / "compiled")
    for damage in (b"", b"short", None):
        kept.put("a", b"program")
        path = tmp_path / "compiled" / "a"
        path.write_bytes(damage if damage is not None else path.read_bytes()[:-1])
        assert kept.get("a") is None
        assert not path.exists()


def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "compiled").write_text("in the way")
    kept = Compiled(tmp_path / "compiled")
    kept.put("a", b"1")
    assert kept.get("a") is None


@pytest.mark.skipif("bash" not in HERE, reason="bash is not installed here")
async def test_a_language_is_offered_at_once_the_next_time(tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "languages.json"
    first = CodeExecutor(work_root=tmp_path / "a", remembered=kept)
    assert list((await first.probe()).languages) == ["python"]
    everything = (await first.probe_all()).languages
    assert "bash" in everything
    second = CodeExecutor(work_root=tmp_path / "b", remembered=kept)
    assert (await second.probe()).languages == everything
    before = kept.stat().st_mtime_ns
    assert (await second.probe_all()).languages == everything
    assert kept.stat().st_mtime_ns == before, "nothing was found out anew"


@pytest.mark.skipif("bash" not in HERE, reason="bash is not installed here")
async def test_what_is_remembered_counts_only_for_the_same_command(tmp_path: Path) -> None:
    path = tmp_path / "languages.json"
    await CodeExecutor(work_root=tmp_path, remembered=path).probe_all()
    kept = json.loads(path.read_text())
    kept["bash"][0] += "0"
    path.write_text(json.dumps(kept))
    offered = await CodeExecutor(work_root=tmp_path, remembered=path).probe()
    assert "bash" not in offered.languages
    for text in ("{", "[]", '{"bash": 1}', '{"bash": ["", "5"]}'):
        path.write_text(text)
        assert Remembered(path).load(await probe_sandbox(tmp_path)) == []
    assert Remembered(None).load(await probe_sandbox(tmp_path)) == []


@pytest.mark.skipif("bash" not in HERE, reason="bash is not installed here")
async def test_a_language_that_does_not_work_in_the_sandbox_is_not_offered_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bash").write_text("#!/usr/bin/python3\nimport sys\nsys.exit('no shell today')\n")
    (folder / "bash").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    offered = await CodeExecutor(work_root=tmp_path / "work").probe_all()
    assert "bash" not in offered.languages
    assert any(said.startswith("bash is here and does not run") for said in offered.problems)
