"""Each path of the API over a real socket: what it answers, and how it refuses."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import trio

from kowalski_gateway.http.bounds import BOUNDS, HttpBounds
from kowalski_node.views import ResultView, TaskView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import ask, serving, wire
from tests.ports.scripted_node import SELF, ScriptedNode

ECHO = {"kind": "tool", "payload": {"tool": "echo", "args": {"value": 5}}}
SLEEP = {"kind": "tool", "payload": {"tool": "sleep", "args": {"seconds": 60}}}


async def test_health_says_whether_the_node_takes_work() -> None:
    node = ScriptedNode()
    async with serving(node) as port:
        answer = await ask(port, "GET", "/api/health")
        assert (answer.status, answer.json["ok"]) == (200, True)
        node.is_ready = False
        answer = await ask(port, "GET", "/api/health")
        assert (answer.status, answer.code) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_task_is_accepted_with_202_its_id_and_its_replicas() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "POST", "/api/tasks", {**SLEEP, "min_replicas": 3})
        assert answer.status == 202
        assert answer.json["replicas"] == 3
        assert len(answer.json["id"]) == 32


async def test_with_wait_s_the_submission_answers_with_the_settled_task() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "POST", "/api/tasks", {**ECHO, "wait_s": 5})
        assert answer.status == 200
        assert answer.json["state"] == "settled"
        assert answer.json["result"]["value"] == 5


async def test_a_node_that_can_do_both_at_once_is_asked_to() -> None:
    class Quick(ScriptedNode):
        async def submit_and_wait(self, spec: Any, wait_s: float) -> TaskView:
            assert wait_s <= BOUNDS.watch_after_s
            (accepted,) = await self.submit([{**spec, "labels": {"quick": "yes"}}])
            return await self.wait(accepted.id, wait_s)

    async with serving(Quick()) as port:
        answer = await ask(port, "POST", "/api/tasks", {**ECHO, "wait_s": 5})
        assert answer.json["labels"] == {"quick": "yes"}
        answer = await ask(port, "POST", "/api/tasks", {**ECHO, "wait_s": 5, "min_replicas": 2})
        assert answer.json["labels"] == {}


async def test_a_wait_that_ends_without_a_settlement_shows_the_task_as_it_stands() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "POST", "/api/tasks", {**SLEEP, "wait_s": 0.02})
        assert (answer.status, answer.json["state"]) == (200, "submitted")


async def test_a_long_wait_answers_when_the_task_settles() -> None:
    node = ScriptedNode()
    bounds = HttpBounds(watch_after_s=0.01)
    async with serving(node, bounds=bounds) as port, wire(port) as one:
        task_id = (await one.ask("POST", "/api/tasks", SLEEP)).json["id"]
        async with trio.open_nursery() as nursery:
            asked = trio.Event()

            async def wait() -> None:
                await one.send("GET", f"/api/tasks/{task_id}?wait_s=60")
                asked.set()
                answer = await one.answer()
                assert answer.json["outcome"] == "completed"

            nursery.start_soon(wait)
            await asked.wait()
            await ask(port, "GET", "/api/health")  # the server has read what was sent before
            node.settle(task_id, ResultView(True, value=1))


async def test_a_problem_after_a_long_wait_is_told_as_it_is() -> None:
    class Forgetful(ScriptedNode):
        async def wait(self, task_id: str, wait_s: float) -> TaskView:
            if wait_s > 1:
                raise Problem("stopping", "This node is stopping.")
            return await super().wait(task_id, wait_s)

    async with serving(Forgetful(), bounds=HttpBounds(watch_after_s=0.01)) as port:
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        answer = await ask(port, "GET", f"/api/tasks/{task_id}?wait_s=60")
        assert (answer.status, answer.code) == (503, "stopping")


async def test_who_hangs_up_waits_no_longer() -> None:
    left = trio.Event()

    class Watched(ScriptedNode):
        async def wait(self, task_id: str, wait_s: float) -> TaskView:
            try:
                return await super().wait(task_id, wait_s)
            except trio.Cancelled:
                left.set()
                raise

    async with serving(Watched(), bounds=HttpBounds(watch_after_s=0.01)) as port:
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        async with wire(port) as one:
            await one.send("GET", f"/api/tasks/{task_id}?wait_s=600")
            await ask(port, "GET", "/api/health")
        with trio.fail_after(5):
            await left.wait()


async def test_a_batch_is_accepted_whole_and_in_order() -> None:
    node = ScriptedNode()
    async with serving(node) as port:
        specs = [
            {"kind": "tool", "payload": {"tool": "echo", "args": {"value": n}}} for n in range(300)
        ]
        answer = await ask(port, "POST", "/api/tasks/batch", specs)
        assert answer.status == 202
        ids = answer.json["ids"]
        assert answer.json["replicas"] == 2
        values = [(await node.task(task_id)).result for task_id in ids]
        assert [result.value for result in values if result] == [*range(300)]


async def test_an_empty_batch_is_accepted_and_is_nothing() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "POST", "/api/tasks/batch", [])
        assert (answer.status, answer.json) == (202, {"ids": [], "replicas": 0})


async def test_a_batch_with_one_bad_task_names_it_and_accepts_none() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "POST", "/api/tasks/batch", [ECHO, {"kind": "dance"}])
        assert (answer.status, answer.code) == (400, "unknown_kind")
        assert "1" in answer.json["error"]["message"]
        assert (await ask(port, "GET", "/api/tasks")).json["tasks"] == []


async def test_a_batch_over_the_limit_is_refused_with_the_limit() -> None:
    async with serving(ScriptedNode()) as port:
        content = b"[" + b",".join([b"{}"] * 10_001) + b"]"
        answer = await ask(port, "POST", "/api/tasks/batch", content=content)
        assert (answer.status, answer.code) == (413, "too_large")
        assert "10,000" in answer.json["error"]["message"]


async def test_ten_thousand_tasks_are_taken_by_one_call() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "POST", "/api/tasks/batch", [SLEEP] * 10_000)
        assert answer.status == 202
        assert len(set(answer.json["ids"])) == 10_000


async def test_a_task_is_shown_by_its_id_or_a_unique_beginning() -> None:
    async with serving(ScriptedNode()) as port:
        task_id = (await ask(port, "POST", "/api/tasks", ECHO)).json["id"]
        whole = await ask(port, "GET", f"/api/tasks/{task_id}")
        assert whole.json["id"] == task_id
        assert (await ask(port, "GET", f"/api/tasks/{task_id[:8].upper()}")).json == whole.json


@pytest.mark.parametrize("name", ["0" * 32, "f00", "zz", "..", "%00", "a" * 100, "%F0%9F%98%80"])
async def test_no_such_task_is_a_404_on_every_path(name: str) -> None:
    async with serving(ScriptedNode()) as port:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/why"), ("GET", "/output")):
            answer = await ask(port, method, f"/api/tasks/{name}{path}")
            assert (answer.status, answer.code) == (404, "not_found"), (method, path)


async def test_a_beginning_that_two_tasks_share_is_ambiguous() -> None:
    async with serving(ScriptedNode()) as port:
        for _ in range(17):
            await ask(port, "POST", "/api/tasks", SLEEP)
        codes = [(await ask(port, "GET", f"/api/tasks/{digit:x}")).status for digit in range(16)]
        assert 409 in codes  # of 17 ids two begin alike


async def test_tasks_are_listed_in_pages_that_lead_to_each_other() -> None:
    async with serving(ScriptedNode()) as port:
        ids = [(await ask(port, "POST", "/api/tasks", ECHO)).json["id"] for _ in range(5)]
        listed: list[str] = []
        after = ""
        while True:
            page = (await ask(port, "GET", f"/api/tasks?limit=2{after}")).json
            listed += [view["id"] for view in page["tasks"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert listed == ids[::-1]
        assert (await ask(port, "GET", "/api/tasks?state=running")).json["tasks"] == []


async def test_many_results_come_in_one_answer() -> None:
    node = ScriptedNode()
    async with serving(node) as port:
        specs = [ECHO, SLEEP, ECHO]
        ids = (await ask(port, "POST", "/api/tasks/batch", specs)).json["ids"]
        answer = await ask(port, "POST", "/api/tasks/results", {"ids": ids, "wait_s": 5})
        assert [view["id"] for view in answer.json["tasks"]] == [ids[0], ids[2]]
        assert answer.json["open"] == 1
        none = await ask(port, "POST", "/api/tasks/results", {"ids": ids[1:2], "wait_s": 0.01})
        assert none.json == {"tasks": [], "open": 1}


async def test_results_wait_for_the_first_that_settles() -> None:
    node = ScriptedNode()
    async with serving(node, bounds=HttpBounds(results_look_s=0.01)) as port, wire(port) as one:
        ids = (await ask(port, "POST", "/api/tasks/batch", [SLEEP, SLEEP])).json["ids"]
        await one.send("POST", "/api/tasks/results", {"ids": ids, "wait_s": 60})
        await ask(port, "GET", "/api/health")
        node.settle(ids[0], ResultView(True, value=1))
        assert [view["id"] for view in (await one.answer()).json["tasks"]] == ids[:1]


async def test_results_that_are_too_large_for_one_answer_come_with_the_next() -> None:
    bounds = HttpBounds(results_size_bytes=100)
    async with serving(ScriptedNode(), bounds=bounds) as port:
        ids = (await ask(port, "POST", "/api/tasks/batch", [ECHO] * 3)).json["ids"]
        answer = (await ask(port, "POST", "/api/tasks/results", {"ids": ids})).json
        assert (len(answer["tasks"]), answer["open"]) == (1, 2)


async def test_a_cancelled_task_can_not_be_cancelled_again() -> None:
    async with serving(ScriptedNode()) as port:
        task_id = (await ask(port, "POST", "/api/tasks", SLEEP)).json["id"]
        answer = await ask(port, "DELETE", f"/api/tasks/{task_id}")
        assert (answer.status, answer.json["outcome"]) == (202, "cancelled")
        answer = await ask(port, "DELETE", f"/api/tasks/{task_id}")
        assert (answer.status, answer.code) == (409, "already_settled")


async def test_why_tells_the_story() -> None:
    async with serving(ScriptedNode()) as port:
        task_id = (await ask(port, "POST", "/api/tasks", ECHO)).json["id"]
        story = (await ask(port, "GET", f"/api/tasks/{task_id}/why")).json
        assert story["steps"][0]["what"] == "TaskSubmitted"
        assert story["outcome"] == "completed"


async def test_the_cluster_is_shown_with_peer_ids() -> None:
    async with serving(ScriptedNode()) as port:
        cluster = (await ask(port, "GET", "/api/cluster")).json
        assert cluster["self"] == cluster["leader"] == SELF
        assert {"cluster", "epoch", "digest", "heads", "devices", "links"} <= set(cluster)
        assert cluster["devices"][0]["id"] == SELF


async def test_an_invite_is_made_and_an_unknown_role_refused() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "POST", "/api/invites", {"role": "admin"})
        assert answer.status == 201
        assert {"token", "expires", "role"} == set(answer.json)
        answer = await ask(port, "POST", "/api/invites", {"role": "emperor"})
        assert (answer.status, answer.code) == (400, "not_supported")


async def test_weights_are_shown_and_changed() -> None:
    async with serving(ScriptedNode()) as port:
        before = (await ask(port, "GET", "/api/weights")).json
        assert before["code"]
        body = {"kind": "tool", "weights": {"cpu": 1}}
        assert (await ask(port, "PUT", "/api/weights", body)).json["tool"] == {"cpu": 1.0}
        assert (await ask(port, "GET", "/api/weights")).json["tool"] == {"cpu": 1.0}


async def test_a_blob_goes_in_and_comes_out_in_pieces() -> None:
    node = ScriptedNode()
    blob = bytes(range(256)) * 4096
    media = {"content-type": "application/octet-stream"}
    async with serving(node) as port:
        answer = await ask(port, "PUT", "/api/blobs", content=blob, headers=media)
        assert answer.status == 201
        digest = hashlib.sha256(blob).hexdigest()
        assert answer.json == {"hash": digest, "size_bytes": len(blob)}
        # It was handed on as it came, never held whole.
        assert max(node.blob_pieces) <= 64 * 1024
        answer = await ask(port, "GET", f"/api/blobs/{digest}")
        assert answer.body == blob
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-length"] == str(len(blob))
        assert "attachment" in answer.headers["content-disposition"]


async def test_whether_a_blob_is_kept_is_asked_without_fetching_it() -> None:
    node = ScriptedNode()
    elsewhere = hashlib.sha256(b"elsewhere").hexdigest()
    own = hashlib.sha256(b"own").hexdigest()
    node.blobs = {elsewhere: b"elsewhere", own: b"own"}
    node.keeps_blob = lambda blob_hash: blob_hash == own
    async with serving(node) as port:
        for method in ("HEAD", "GET"):
            answer = await ask(port, method, f"/api/blobs/{own}?kept=true")
            assert (answer.status, answer.headers["content-length"]) == (200, "3")
            assert (await ask(port, method, f"/api/blobs/{elsewhere}?kept=true")).status == 404
            assert (await ask(port, method, f"/api/blobs/{elsewhere}")).status == 200
        assert (await ask(port, "GET", f"/api/blobs/{own}?kept=maybe")).status == 400


@pytest.mark.parametrize("name", ["0" * 64, "abc", "..%2f..%2fetc%2fpasswd", "g" * 64])
async def test_no_such_blob_is_a_404(name: str) -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "GET", f"/api/blobs/{name}")
        assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/tasks/", 404, "not_found"),
        ("GET", "//api/health", 404, "not_found"),
        ("PATCH", "/api/tasks", 405, "method_not_allowed"),
        ("POST", "/api/health", 405, "method_not_allowed"),
        ("OPTIONS", "/api/tasks", 405, "method_not_allowed"),
        ("GET", "/api/tasks?limit=0", 400, "bad_request"),
        ("GET", "/api/tasks?limit=1&limit=2", 400, "bad_request"),
        ("GET", "/api/tasks?colour=red", 400, "bad_request"),
        ("GET", "/api/tasks?state=dancing", 400, "bad_request"),
        ("GET", "/api/tasks/00?wait_s=nan", 400, "bad_request"),
        ("GET", "/api/tasks/00?wait_s=-1", 400, "bad_request"),
        ("GET", "/api/tasks/00?wait_s=1e9", 400, "bad_request"),
        ("GET", "/api/tasks/00?wait_s=null", 400, "bad_request"),
        ("GET", "/api/events?after=-1", 400, "bad_request"),
        ("GET", "/api/events?after=99999999999999999999", 400, "bad_request"),
        ("GET", "/api/health?x=1", 400, "bad_request"),
    ],
)
async def test_what_the_api_does_not_know_is_refused_with_a_code(
    method: str, path: str, status: int, code: str
) -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, method, path)
        assert (answer.status, answer.code) == (status, code)
        assert answer.json["error"]["message"].endswith(".")


async def test_a_405_lists_the_methods_that_there_are() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "PUT", "/api/tasks")
        assert answer.headers["allow"] == "GET, POST"


async def test_too_many_tasks_are_a_429_with_retry_after() -> None:
    node = ScriptedNode()
    node.refuse_with = Problem("too_many_tasks", "Too many tasks are waiting.")
    async with serving(node) as port:
        answer = await ask(port, "POST", "/api/tasks", ECHO)
        assert (answer.status, answer.code) == (429, "too_many_tasks")
        assert int(answer.headers["retry-after"]) >= 1


async def test_the_nodes_mend_reaches_the_client() -> None:
    node = ScriptedNode()
    node.refuse_with = Problem("disk_full", "The disk is full.", mend="kowalski status")
    async with serving(node) as port:
        answer = await ask(port, "POST", "/api/tasks", ECHO)
        assert answer.status == 507
        assert answer.json["error"]["mend"] == "kowalski status"


async def test_a_mistake_of_ours_is_a_500_that_says_nothing_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down() -> None:
        raise RuntimeError("secret detail")

    node = ScriptedNode()
    node.before_answer = break_down
    async with serving(node) as port, wire(port) as one:
        answer = await one.ask("GET", "/api/cluster")
        assert (answer.status, answer.code) == (500, "internal")
        assert b"secret" not in answer.body
        assert "secret detail" in caplog.text
        assert (await one.ask("GET", "/api/health")).status == 200  # on the same connection


async def test_every_answer_forbids_browsers_to_guess_embed_and_keep() -> None:
    async with serving(ScriptedNode()) as port:
        for path in ("/api/health", "/api/nothing", "/metrics", "/api/events?follow=false"):
            headers = (await ask(port, "GET", path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in headers
