"""What each command of `kowalski` prints and exits with, against a node of the test's own."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from kowalski_node.views import ErrorView, PauseView, ResultView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Served, served
from tests.ports.scripted_node import OTHER, SELF
from tests.units.cli_runner import Kowalski

ECHO = ("submit", "--tool", "echo", "--args", '{"value": 7}')
SLEEP = ("submit", "--tool", "sleep", "--args", '{"seconds": 60}')


def settle(api: Served, task_id: str, result: ResultView) -> None:
    api.do(lambda: api.node.start(task_id))
    api.do(lambda: api.node.settle(task_id, result))


def test_status_says_who_leads_and_what_runs(api: Served, kowalski: Kowalski) -> None:
    api.node.warnings.append(ErrorView("one_admin", "One admin only.", "kowalski invite"))
    kowalski(*ECHO)
    ended = kowalski("status")
    assert ended.code == 0
    assert "desk (…Self1111), this device, epoch 3" in ended.out
    assert "2 of 2 alive" in ended.out
    assert "none open, 1 settled" in ended.out
    assert "warning: One admin only.\nmend: kowalski invite" in ended.out
    assert kowalski("status", "--json").json["leader"] == SELF


def test_the_shared_options_stand_before_and_after_the_command(
    api: Served, kowalski: Kowalski, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOWALSKI_API", "127.0.0.1:1")
    address = api.url.removeprefix("http://")
    for arguments in (
        ("--api", address, "--json", "status"),
        ("status", "--api", address, "--json"),
        ("--api", "127.0.0.1:1", "status", "--json", "--api", api.url + "/"),
        ("--json", "status", f"--api={address}"),
    ):
        assert kowalski(*arguments).json["self"] == SELF


def test_devices_are_listed_with_what_they_offer(api: Served, kowalski: Kowalski) -> None:
    ended = kowalski("devices")
    assert re.search(r"desk \(this\) +…Self1111 +admin +leader", ended.out)
    assert re.search(r"laptop +…Peer2222 +member +alive", ended.out)
    assert "python, 2 tools" in ended.out
    assert [one["id"] for one in kowalski("devices", "--json").json] == [SELF, OTHER]


def test_devices_that_get_no_tasks_of_a_kind_are_named_with_the_reason(
    api: Served, kowalski: Kowalski, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "warning" not in kowalski("devices").out
    monkeypatch.setattr(time, "time", lambda: 1_790_000_000.0)
    api.node.pauses[OTHER] = [
        PauseView("code", "sandbox_unavailable", 5, 70.0),
        PauseView("tool", "executor_failed", 7, 0.0),
    ]
    ended = kowalski("devices")
    until = time.strftime("%H:%M:%S", time.localtime(1_790_000_070.0))
    reason = "5 failures in a row (sandbox_unavailable)"
    assert f"warning: laptop: no code tasks until {until}: {reason}\n" in ended.out
    tried = "warning: laptop: tool tasks one at a time: 7 failures in a row (executor_failed)\n"
    assert tried in ended.out
    shown = kowalski("devices", "--json").json[1]["pauses"]
    assert [pause["for_s"] for pause in shown] == [70.0, 0.0]


def test_links_show_round_trips_and_traffic(api: Served, kowalski: Kowalski) -> None:
    ended = kowalski("devices", "--links")
    assert "0.42 ms" in ended.out
    assert "1.2 KiB" in ended.out
    assert kowalski("devices", "--links", "--json").json[0]["peer"] == OTHER
    api.node.device_names.clear()
    assert "kowalski invite" in kowalski("devices", "--links").out


def test_a_submission_prints_the_id_alone(api: Served, kowalski: Kowalski) -> None:
    ended = kowalski(*SLEEP)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch("[0-9a-f]{32}\n", ended.out)
    assert kowalski(*SLEEP, "--json").json["replicas"] == 2


def test_waiting_prints_the_value(api: Served, kowalski: Kowalski) -> None:
    assert kowalski(*ECHO, "--wait") == (0, "7\n", "")
    assert kowalski(*ECHO, "--wait", "--json").json["result"]["value"] == 7
    assert kowalski("submit", "--tool", "echo", "--args", '{"value": "a\\nb"}', "--wait").out == (
        "a\nb\n"
    )
    assert kowalski("submit", "--tool", "echo", "--args", '{"value": null}', "--wait").out == ""


def test_the_program_comes_from_a_file_and_its_language_from_the_suffix(
    api: Served, kowalski: Kowalski, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "job.py"
    program.write_text("print('ü')\n", encoding="utf-8")
    task_id = kowalski("submit", str(program)).out.strip()
    assert api.node._payloads[task_id] == {"language": "python", "code": "print('ü')\n"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"echo 1"), encoding="utf-8"))
    task_id = kowalski("submit", "-", "--lang", "bash").out.strip()
    assert api.node._payloads[task_id] == {"language": "bash", "code": "echo 1"}


def test_the_options_of_a_task_reach_the_node(api: Served, kowalski: Kowalski) -> None:
    seen: list[Any] = []

    async def watched(specs: Any, **options: Any) -> Any:
        seen.extend(specs)
        raise Problem("disk_full", "Seen enough.")

    api.node.submit = watched
    options = (
        "--require memory_mb=512 --require labels.room=attic --require platform=linux --priority 5"
        " --timeout 2.5 --label a=b --label c=d=e --key k --device-filter network --failover fail"
        " --hedge --max-attempts 3 --device laptop"
    )
    assert kowalski(*ECHO, *options.split()).code == 1
    assert seen == [
        {
            "kind": "tool",
            "payload": {"tool": "echo", "args": {"value": 7}},
            "priority": 5,
            "timeout_s": 2.5,
            "idempotency_key": "k",
            "device_filter": "network",
            "failover": "fail",
            "hedge": True,
            "retry": {"max_attempts": 3},
            "labels": {"a": "b", "c": "d=e"},
            "requires": {
                "memory_mb": 512,
                "labels": {"room": "attic"},
                "platform": "linux",
                "device": OTHER,
            },
        }
    ]


@pytest.mark.parametrize("wanted", [OTHER, "laptop", "Peer2222", "…Peer2222", OTHER[:12]])
def test_a_device_is_meant_by_name_id_or_a_part_of_it(
    api: Served, kowalski: Kowalski, wanted: str
) -> None:
    seen: list[Any] = []

    async def watched(specs: Any, **options: Any) -> Any:
        seen.extend(specs)
        raise Problem("disk_full", "Seen enough.")

    api.node.submit = watched
    kowalski(*ECHO, "--device", wanted)
    assert [spec["requires"] for spec in seen] == [{"device": OTHER}]


@pytest.mark.parametrize("wanted", ["tablet", "12D3KooW", "x"])
def test_a_device_that_is_nobody_or_more_than_one_is_refused(
    api: Served, kowalski: Kowalski, wanted: str
) -> None:
    ended = kowalski(*ECHO, "--device", wanted)
    assert ended.code == 2
    assert "desk, laptop" in ended.err


def test_a_failed_task_exits_with_1_and_says_why(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*SLEEP).out.strip()
    error = ErrorView("code_failed", "The program ended with status 1.")
    settle(api, task_id, ResultView(False, stdout="half\n", stderr="oh no\n", error=error))
    ended = kowalski("result", task_id[:8])
    assert (ended.code, ended.out) == (1, "half\n")
    assert ended.err == (
        "oh no\nerror [code_failed]: The program ended with status 1.\n"
        f"mend: kowalski why {task_id[:12]}\n"
    )
    ended = kowalski("result", task_id, "--json")
    assert (ended.code, ended.json["outcome"], ended.err) == (1, "failed", "")


def test_a_task_that_has_not_settled_exits_with_1(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*SLEEP).out.strip()
    for wait in ((), ("--wait", "0.01")):
        ended = kowalski("result", task_id, *wait)
        assert ended.code == 1
        assert ended.err.startswith("error [not_settled]: The task has not settled yet")
        assert f"mend: kowalski result {task_id[:12]} --wait" in ended.err
    ended = kowalski(*SLEEP, "--wait", "0.01")
    assert ended.code == 1
    assert "error [not_settled]: The task has not settled yet" in ended.err


def test_output_and_value_do_not_share_a_line(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*SLEEP).out.strip()
    settle(api, task_id, ResultView(True, value=[1], stdout="no end of line"))
    assert kowalski("result", task_id).out == "no end of line\n[\n  1\n]\n"


def test_a_result_is_written_to_a_file(api: Served, kowalski: Kowalski, tmp_path: Path) -> None:
    task_id = kowalski(*ECHO).out.strip()
    out = tmp_path / "value.json"
    assert kowalski("result", task_id, "--out", str(out)).code == 0
    assert out.read_text(encoding="utf-8") == "7\n"
    api.node.blobs["ab" * 32] = b"bytes" * 1000
    big = kowalski(*SLEEP).out.strip()
    settle(api, big, ResultView(True, blob="ab" * 32))
    assert "--out FILE" in kowalski("result", big).err
    assert kowalski("result", big, "--out", str(out)).code == 0
    assert out.read_bytes() == b"bytes" * 1000
    assert kowalski("result", big, "--out", str(tmp_path / "no" / "x")).code == 1


def test_a_large_result_is_shown_as_any_other(
    api: Served, kowalski: Kowalski, tmp_path: Path
) -> None:
    """A node names the blob that it is, and has the value in its answer all the same."""
    large = kowalski(*SLEEP).out.strip()
    settle(api, large, ResultView(True, value="x" * 70_000, blob="ab" * 32))
    assert kowalski("result", large) == (0, "x" * 70_000 + "\n", "")
    out = tmp_path / "value.json"
    assert kowalski("result", large, "--out", str(out)).code == 0
    assert json.loads(out.read_text(encoding="utf-8")) == "x" * 70_000
    talkative = kowalski(*SLEEP).out.strip()
    settle(api, talkative, ResultView(True, blob="cd" * 32, stdout="x" * 70_000))
    assert kowalski("result", talkative) == (0, "x" * 70_000, "")


def test_output_is_shown_while_the_task_runs(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*SLEEP).out.strip()
    api.do(lambda: api.node.start(task_id))
    api.do(lambda: api.node.say(task_id, "one\n"))
    assert kowalski("logs", task_id).out == "one\n"
    output = api.node.output

    def live(task_id: str, *, follow: bool) -> Any:
        async def chunks() -> Any:
            async for chunk in output(task_id, follow=follow):
                yield chunk
                if chunk.text == "one\n" and follow:
                    api.node.say(task_id, "two\n", "stderr")
                    api.node.settle(task_id, ResultView(True, value=1, stdout="one\n"))

        return chunks()

    api.node.output = live
    ended = kowalski("logs", task_id, "-f")
    assert (ended.out, ended.err) == ("one\n", "two\n")
    shown = kowalski("logs", task_id, "--json").json
    assert [chunk["text"] for chunk in shown["output"]] == ["one\n", "two\n"]
    assert shown["state"] == "settled"


def test_waiting_shows_output_live_and_only_once(api: Served, kowalski: Kowalski) -> None:
    output = api.node.output

    def live(task_id: str, *, follow: bool) -> Any:
        async def chunks() -> Any:
            api.node.start(task_id)
            api.node.say(task_id, "working")
            async for chunk in output(task_id, follow=follow):
                yield chunk
                if chunk.text == "working":
                    result = ResultView(True, value=42, stdout="working")
                    api.node.settle(task_id, result)

        return chunks()

    api.node.output = live
    ended = kowalski(*SLEEP, "--wait", "30")
    assert (ended.code, ended.out) == (0, "working\n42\n")
    assert re.fullmatch("task [0-9a-f]{12}\n", ended.err)


def test_waiting_goes_on_where_the_output_ends_before_the_settlement(
    api: Served, kowalski: Kowalski
) -> None:
    def silent(task_id: str, *, follow: bool) -> Any:
        async def chunks() -> Any:
            wait = api.node.wait

            async def settling(task_id: str, wait_s: float) -> Any:
                api.node.settle(task_id, ResultView(True, value=42))
                return await wait(task_id, wait_s)

            api.node.wait = settling
            return
            yield

        return chunks()

    api.node.output = silent
    assert kowalski(*SLEEP, "--wait", "30")[:2] == (0, "42\n")


def test_the_ledgers_events_are_listed(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*ECHO).out.strip()
    lines = kowalski("logs").out.splitlines()
    assert len(lines) == 4
    assert re.match(r" +1  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  desk +ClusterFounded", lines[0])
    assert f"task={task_id[:12]}…" in lines[1]
    assert [event["position"] for event in kowalski("logs", "--json", "--after", "2").json] == [
        3,
        4,
    ]


def test_cancel_and_its_refusal(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*SLEEP).out.strip()
    assert task_id[:12] in kowalski("cancel", task_id[:6]).out
    ended = kowalski("cancel", task_id)
    assert ended.code == 1
    assert "has ended" in ended.err
    assert kowalski("cancel", "nonsense", "--json").json["error"]["code"] == "not_found"


def test_why_is_a_table_of_times_people_and_sentences(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*ECHO).out.strip()
    ended = kowalski("why", task_id[:10])
    assert f"task   {task_id}" in ended.out
    assert re.search(r"\+0\.000 s  desk +TaskSubmitted", ended.out)
    assert re.search(r"TaskSettled +desk wrote TaskSettled\.", ended.out)
    assert kowalski("why", task_id, "--json").json["id"] == task_id


def test_why_says_what_a_task_waits_for(api: Served, kowalski: Kowalski) -> None:
    task_id = kowalski(*SLEEP).out.strip()
    assert "now" not in kowalski("why", task_id).out
    api.node.waiting = "waits for a free place"
    assert re.search(r"now +waits for a free place\n", kowalski("why", task_id).out)
    assert kowalski("why", task_id, "--json").json["waiting"] == "waits for a free place"


def test_tasks_are_listed_with_short_ids_and_whole_in_json(api: Served, kowalski: Kowalski) -> None:
    assert kowalski("tasks").out == "No tasks.\n"
    ids = [kowalski(*ECHO).out.strip() for _ in range(3)]
    lines = kowalski("tasks").out.splitlines()
    assert [line[:12] for line in lines[1:]] == [task_id[:12] for task_id in reversed(ids)]
    assert all("completed" in line for line in lines[1:])
    listed = kowalski("tasks", "--json", "--limit", "2").json
    assert [view["id"] for view in listed] == ids[:0:-1]
    assert "--limit shows more" in kowalski("tasks", "--limit", "2").out
    assert kowalski("tasks", "--state", "running").out == "No tasks are running.\n"


def test_an_invite_names_the_command_and_the_expiry(api: Served, kowalski: Kowalski) -> None:
    ended = kowalski("invite", "--role", "admin")
    token = "kowalski1-" + "a" * 150
    assert f"kowalski-node --join {token}" in ended.out
    assert "lets one admin in" in ended.out
    shown = kowalski("invite", "--json").json
    assert {"token", "expires"} <= set(shown)
    assert kowalski("invite", "--role", "emperor").code == 1


def test_weights_change_only_the_named_factor(api: Served, kowalski: Kowalski) -> None:
    before = kowalski("weights", "--json").json["code"]
    after = kowalski("weights", "set", "code", "cpu=0.75", "--json").json["code"]
    assert after == {**before, "cpu": 0.75}
    assert re.search(r"cpu +0\.75", kowalski("weights").out)


@pytest.mark.parametrize(
    "arguments",
    ["status", "devices", "tasks", "invite", "weights", "why 00", "result 00", "logs", "cancel 00"],
)
def test_without_a_node_every_command_exits_with_3(
    kowalski: Kowalski, arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOWALSKI_API", "127.0.0.1:1")
    ended = kowalski(*arguments.split())
    assert (ended.code, ended.out) == (3, "")
    assert ended.err == (
        "error [node_unreachable]: No node answers at http://127.0.0.1:1.\nmend: kowalski-node\n"
    )
    said = kowalski(*arguments.split(), "--json")
    assert (said.code, said.err) == (3, "")
    assert said.json["error"]["code"] == "node_unreachable"


def test_a_token_is_taken_from_the_option_or_the_environment(
    kowalski: Kowalski, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(token="right") as api:
        monkeypatch.setenv("KOWALSKI_API", api.url)
        assert kowalski("status", "--json").json["error"]["code"] == "unauthorized"
        assert kowalski("status", "--token", "right").code == 0
        monkeypatch.setenv("KOWALSKI_API_TOKEN", "right")
        assert kowalski("status").code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(kowalski: Kowalski, shell: str) -> None:
    ended = kowalski("completion", shell)
    assert ended.code == 0
    assert "_KOWALSKI_COMPLETE" in ended.out
    assert kowalski("completion", shell, "--json").json["script"] in ended.out
