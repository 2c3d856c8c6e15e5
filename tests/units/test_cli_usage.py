"""Commands that are typed wrongly, or too early: what is said, and that nothing is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from kowalski_gateway.cli.catalogue import TO_COME
from tests.ports.api_world import Served
from tests.units.cli_runner import Kowalski

ECHO = ("submit", "--tool", "echo", "--args", '{"value": 7}')


@pytest.mark.parametrize(
    "arguments",
    [
        "submit",
        "submit --kind code",
        "submit --kind tool",
        "submit job.xyz",
        "submit missing.py",
        "submit --tool echo job.py",
        "submit --tool echo --args [1]",
        "submit --tool echo --args {",
        "submit --tool echo --require x",
        "submit --tool echo --label =x",
        "submit --tool echo --failover never",
        "submit --tool echo --priority high",
        "submit --tool echo --wait=soon",
        "submit --tool echo --wait=-1",
        "submit --tool echo --wait=nan",
        "submit --tool echo --timeout nan",
        "submit --tool echo --timeout inf",
        'submit --tool echo --args {"value":NaN}',
        'submit --tool echo --args {"value":1e999}',
        "submit --tool echo --args " + "[" * 100_000,
        "tasks --limit 0",
        "tasks --state dancing",
        "result",
        "why a b",
        "weights set",
        "weights set code cpu",
        "weights set code cpu=nan",
        "weights unset code cpu=1",
        "status --colour",
        "completion powershell",
        "batch",
        "batch missing.jsonl",
        "batch x --max-parallel 0",
        "replay --until yesterday",
        "status --api ftp://x",
        "status --api http://127.0.0.1:99999",
        "status --api http://[::1",
        "dance",
        "",
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(
    api: Served, kowalski: Kowalski, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ledger.db").touch()
    monkeypatch.setenv("KOWALSKI_HOME", str(tmp_path))
    (tmp_path / "job.xyz").write_text("x", encoding="utf-8")
    ended = kowalski(*arguments.split())
    assert ended.code == 2
    if arguments:
        assert ended.out == ""
        assert ended.err.startswith("error [bad_request]: ")
        said = kowalski(*arguments.split(), "--json")
        assert said.code == 2
        assert said.json["error"]["code"] == "bad_request"
        assert said.err == ""


def test_a_time_that_is_none_is_refused_at_the_option(api: Served, kowalski: Kowalski) -> None:
    ended = kowalski(*ECHO, "--timeout", "nan")
    assert "'--timeout'" in ended.err
    assert "must be a number of seconds." in ended.err
    assert api.node._tasks == {}


def test_a_requirement_that_is_no_number_reaches_the_node_as_a_text(
    api: Served, kowalski: Kowalski
) -> None:
    ended = kowalski(*ECHO, "--require", "memory_mb=nan")
    assert ended.code == 1
    assert "memory_mb" in ended.err


def test_a_document_that_would_never_end_is_refused(api: Served, kowalski: Kowalski) -> None:
    ended = kowalski("logs", "-f", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "bad_request")


def test_a_misspelt_command_is_answered_with_the_right_one(kowalski: Kowalski) -> None:
    assert "Did you mean 'status'?" in kowalski("stats").err
    assert "Did you mean 'demo'?" in kowalski("dmeo").err
    for far in ("dance", "remote", "x"):
        assert "Did you mean" not in kowalski(far).err


@pytest.mark.parametrize("name", sorted(TO_COME))
def test_a_command_of_a_later_release_is_named_as_one(kowalski: Kowalski, name: str) -> None:
    for arguments in ((name,), (name, "x"), (name, "--help")):
        ended = kowalski(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith(f"error [not_supported]: 'kowalski {name}' is not built in")
        assert "Did you mean" not in ended.err
    said = kowalski(name, "x", "--json")
    assert (said.code, said.json["error"]["code"]) == (2, "not_supported")
