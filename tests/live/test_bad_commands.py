"""Bad input by the command line: a code, a sentence and an exit code, and the node works on."""

from __future__ import annotations

from pathlib import Path

from kowalski_gateway.local_cluster import LocalCluster
from tests.live.commands import kowalski, node_fails, offline

FAILED, USAGE, UNREACHABLE = 1, 2, 3


async def test_what_the_node_refuses_is_told_with_its_code(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    desk = await cluster.add("desk")
    program = tmp_path / "program.py"
    program.write_text("print('hello')\n", encoding="utf-8")
    large = tmp_path / "large.py"
    large.write_text("#" * 70_000, encoding="utf-8")
    roof = ("--label", "home=yes", "--require", "labels=7")
    refused: dict[str, tuple[str, ...]] = {
        "unknown_kind": ("submit", str(program), "--kind", "dance"),
        "not_supported": ("submit", str(program), "--kind", "chat"),
        "unknown_language": ("submit", str(program), "--lang", "cobol"),
        "spec_too_large": ("submit", str(large)),
        "unknown_tool": ("submit", "--tool", "telepathy"),
        "impossible_requirement": ("submit", "--tool", "echo", "--require", "cores=1000000"),
        "not_found": ("result", "0" * 32),
        "bad_request": ("submit", "--tool", "echo", *roof),
    }
    for code, words in refused.items():
        ended = await kowalski(desk, *words)
        assert (ended.code, ended.error) == (FAILED, code), (words, ended.stdout, ended.stderr)
        assert ended.json()["error"]["message"]
    assert (await kowalski(desk, "submit", str(tmp_path / "missing.py"))).code in (FAILED, USAGE)
    assert (await kowalski(desk, "dance")).code == USAGE
    assert (await kowalski(desk, "tasks")).json() == []
    ended = await kowalski(desk, "submit", "--tool", "echo", "--args", '{"value": 1}', "--wait")
    assert (ended.code, ended.json()["result"]["value"]) == (0, 1)


async def test_where_there_is_no_node_and_no_ledger_it_says_so(tmp_path: Path) -> None:
    ended = await offline("--api", "127.0.0.1:9", "status")
    assert (ended.code, ended.error) == (UNREACHABLE, "node_unreachable")
    for command in ("replay", "audit"):
        ended = await offline(command, "--ledger", str(tmp_path / "ledger.db"))
        assert (ended.code, ended.error) == (FAILED, "ledger_missing")
    other = tmp_path / "letter.db"
    other.write_text("Dear reader, this is not a ledger.\n" * 100, encoding="utf-8")
    ended = await offline("replay", "--ledger", str(other))
    assert (ended.code, ended.error) == (FAILED, "ledger_foreign")


async def test_a_node_with_wrong_options_does_not_start(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    wrong: tuple[tuple[str, ...], ...] = (
        ("--listen", "somewhere"),
        ("--peer", "/ip4/1.2.3.4/udp/5"),
        ("--api", "127.0.0.1:99999"),
        ("--api", "0.0.0.0:0"),
        ("--slots", "0"),
        ("--label", "home"),
        ("--cost", "code=-1"),
        ("--preset", "moon"),
        ("--model-server", "http://127.0.0.1:1"),
    )
    for words in wrong:
        ended = await node_fails(*home, *words)
        assert ended.code in (FAILED, USAGE), (words, ended.stderr)
        assert "Traceback" not in ended.stderr, words
        assert ended.stderr.strip(), words
