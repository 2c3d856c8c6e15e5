"""What a device says of itself when its sandbox works, is missing, is broken, or leaks.

The broken ones are small scripts in the place of `bwrap`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kowalski_executors import sandbox_probe, warm
from kowalski_executors.code_executor import CodeExecutor
from kowalski_executors.interpreter import Interpreter, find_interpreter, folder_to_show
from kowalski_node.executor import Capabilities, Failed
from kowalski_protocol.errors import Problem
from tests.ports.executors import Recorder, answer, attempt, children, failure, python

LEAKING = """#!/bin/sh
# Runs the command without confining it.
while [ "$1" != "--" ]; do shift; done
shift
exec "$@"
"""
REFUSED = """#!/bin/sh
echo 'bwrap: setting up uid map: Permission denied' >&2
exit 1
"""
OLD = """#!/bin/sh
echo 'bwrap: Unknown option --size' >&2
exit 1
"""
HANGING = """#!/bin/sh
exec sleep 60
"""
LYING = """#!/bin/sh
exit 0
"""


@pytest.fixture
def place_bwrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a script, or nothing, in the place of bwrap."""

    def place(script: str | None) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        if script is not None:
            (folder / "bwrap").write_text(script)
            (folder / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return place


async def probed(tmp_path: Path) -> Capabilities:
    """What the executor says, within its deadline."""
    with trio.fail_after(sandbox_probe.PROBE_S + 1):
        return await CodeExecutor(work_root=tmp_path / "work").probe()


def names_in(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def refused_because(offered: Capabilities, *said: str) -> None:
    """Checks that nothing is offered, and that the one problem says why."""
    assert (list(offered.kinds), dict(offered.languages)) == ([], {})
    (problem,) = offered.problems
    for words in said:
        assert words in problem


@pytest.mark.needs_bubblewrap
async def test_a_working_sandbox_is_offered_with_its_strength_and_version(tmp_path: Path) -> None:
    offered = await probed(tmp_path)
    assert offered == Capabilities(
        kinds=("code",), languages={"python": platform.python_version()}, sandbox="bubblewrap"
    )
    assert names_in(tmp_path / "work") == []


async def test_without_a_sandbox_only_the_owners_word_offers_code(tmp_path: Path) -> None:
    offered = await CodeExecutor(work_root=tmp_path, unsandboxed=True).probe()
    assert offered.sandbox == "unsandboxed"
    assert list(offered.kinds) == ["code"]


async def test_a_missing_bubblewrap_names_its_package(tmp_path: Path, place_bwrap) -> None:
    place_bwrap(None)
    refused_because(await probed(tmp_path), "not installed", "sudo apt-get install bubblewrap")


async def test_code_without_a_sandbox_fails_with_the_cause_and_the_mend(
    tmp_path: Path, place_bwrap
) -> None:
    place_bwrap(None)
    executor = CodeExecutor(work_root=tmp_path)
    outcome = await executor.run(attempt(python("1")), Recorder())
    assert isinstance(outcome, Failed)
    assert outcome.code == "sandbox_unavailable"
    assert "apt-get install bubblewrap" in outcome.sentence


async def test_a_sandbox_that_leaks_is_not_offered(
    tmp_path: Path, place_bwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_bwrap(LEAKING)
    monkeypatch.chdir(tmp_path)
    refused_because(
        await probed(tmp_path),
        "read a file outside",
        "reach the device's loopback",
        "write outside the work folder",
        "see the node's processes",
    )
    assert names_in(tmp_path) == ["bin", "work"]
    assert names_in(tmp_path / "work") == []


@pytest.mark.needs_bubblewrap
async def test_where_no_namespaces_can_be_made_inside_programs_start_cold_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where AppArmor lets bubblewrap make namespaces, and nothing that runs in it.
    text = (Path(warm.__file__).parent / "zygote.py").read_text(encoding="utf-8")
    forbidden = text.replace("    if number < 0:\n", "    if number > 0:\n")
    assert forbidden != text
    whole = warm.compiled
    monkeypatch.setattr(
        warm,
        "compiled",
        lambda name: compile(forbidden, "<zygote>", "exec") if name == "zygote" else whole(name),
    )
    executor = CodeExecutor(work_root=tmp_path / "work")
    offered = await executor.probe()
    assert offered.sandbox == "bubblewrap"
    assert list(offered.languages) == ["python"]
    assert any(said.startswith("Programs start cold here") for said in offered.problems)
    assert await answer(executor, "6 * 7") == 42
    assert not children()


async def test_a_refused_sandbox_says_what_was_refused(tmp_path: Path, place_bwrap) -> None:
    place_bwrap(REFUSED)
    refused_because(await probed(tmp_path), "setting up uid map: Permission denied")


async def test_a_forbidding_kernel_setting_is_named_with_its_mend(
    tmp_path: Path, place_bwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_bwrap(REFUSED)
    file = tmp_path / "apparmor_restrict_unprivileged_userns"
    file.write_text("1\n")
    row = (str(file), *sandbox_probe._SETTINGS[0][1:])
    monkeypatch.setattr(sandbox_probe, "_SETTINGS", (row,))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused_because(
        await probed(tmp_path),
        "AppArmor",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    )


async def test_an_old_bubblewrap_says_so(tmp_path: Path, place_bwrap) -> None:
    place_bwrap(OLD)
    refused_because(await probed(tmp_path), "too old", "apt-get install bubblewrap")


async def test_a_sandbox_that_ran_nothing_is_not_believed(tmp_path: Path, place_bwrap) -> None:
    place_bwrap(LYING)
    refused_because(await probed(tmp_path), "sandbox")


async def test_a_sandbox_that_hangs_is_given_up_in_time(
    tmp_path: Path, place_bwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_probe, "_RUN_S", 0.5)
    place_bwrap(HANGING.replace("sleep", "/bin/sleep"))
    refused_because(await probed(tmp_path), "within 0.5 s")
    assert not children()


@pytest.mark.needs_bubblewrap
async def test_without_a_filter_for_its_processor_a_device_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_probe, "machine", lambda: None)
    offered = await probed(tmp_path)
    assert (list(offered.kinds), offered.sandbox) == (["code"], "bubblewrap")
    assert "no system call filter" in offered.problems[0]


@pytest.mark.needs_bubblewrap
@pytest.mark.skipif(os.geteuid() != 0, reason="only a node of root's needs users for its programs")
async def test_root_without_users_for_its_programs_says_so_and_counts_their_processes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_probe, "make_user_mapping", lambda _: None)
    executor = CodeExecutor(work_root=tmp_path)
    offered = await executor.probe()
    assert list(offered.kinds) == ["code"]
    assert "as root" in offered.problems[0]
    hoard = "import os, time\nfor _ in range(500):\n    if os.fork() == 0: time.sleep(60)\n"
    outcome = await failure(executor, hoard + "time.sleep(60)")
    assert "more than 64 processes" in outcome.sentence


def test_every_setting_that_is_named_exists_in_some_kernel() -> None:
    for file, _, _, mend in sandbox_probe._SETTINGS:
        name = file.removeprefix("/proc/sys/").replace("/", ".")
        assert re.fullmatch(rf"sudo sysctl -w {re.escape(name)}=\d+", mend)


def test_the_interpreter_is_the_one_beneath_the_virtual_environment() -> None:
    found = find_interpreter()
    assert not (found.executable.parent.parent / "pyvenv.cfg").exists()
    version = subprocess.check_output(
        [found.executable, "-I", "-S", "-c", "import sys; print(sys.version)"], text=True
    )
    assert version.strip() == sys.version


def test_only_the_interpreters_own_folder_is_shown() -> None:
    home = Path("/home/ada")
    assert folder_to_show(Interpreter(Path("/usr/bin/python3"), Path("/usr")), (home,)) is None
    prefix = home / ".pyenv/versions/3.12"
    assert folder_to_show(Interpreter(prefix / "bin/python", prefix), (home,)) == prefix


@pytest.mark.parametrize("prefix", ["/home/ada", "/home", "/"])
def test_a_prefix_that_holds_the_home_folder_is_not_shown(prefix: str) -> None:
    interpreter = Interpreter(Path(prefix) / "bin/python", Path(prefix))
    with pytest.raises(Problem, match="/home/ada"):
        folder_to_show(interpreter, (Path("/home/ada"),))


def test_an_interpreter_outside_its_prefix_is_not_used() -> None:
    with pytest.raises(Problem, match="not inside"):
        folder_to_show(Interpreter(Path("/opt/a/python"), Path("/opt/b")), ())
