"""The metrics text: Prometheus' grammar, hostile labels, and nobody's data."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kowalski_gateway.http.metrics import metrics_text
from tests.ports.api_world import ask, serving
from tests.ports.scripted_node import ScriptedNode

CANARY = "canary-7f3a"


def test_rows_of_one_name_stand_under_one_help_and_type() -> None:
    text = metrics_text(
        [
            ("a_total", "counter", "What a is.", {"k": "1"}, 1.0),
            ("b", "gauge", "What b is.", {}, 0.5),
            ("a_total", "counter", "What a is.", {"k": "2"}, 2.0),
        ]
    )
    assert text == (
        "# HELP a_total What a is.\n# TYPE a_total counter\n"
        'a_total{k="1"} 1\na_total{k="2"} 2\n'
        "# HELP b What b is.\n# TYPE b gauge\nb 0.5\n"
    )


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", 'end\\"', "ü\x1b", '"} 1\nfake 2', ""])
def test_a_label_holds_any_text(value: str) -> None:
    text = metrics_text([("a", "gauge", "Line\nbreak \\ here.", {"k": value}, 1.0)])
    (family,) = text_string_to_metric_families(text)
    assert [sample.labels for sample in family.samples] == [{"k": value}]
    assert family.documentation == "Line\nbreak \\ here."


@pytest.mark.parametrize("value", [0.0, -1.5, 1e300, 2.0**60, math.inf, -math.inf, math.nan, 1e-9])
def test_a_number_is_read_back_as_it_was(value: float) -> None:
    (family,) = text_string_to_metric_families(metrics_text([("a", "gauge", "A.", {}, value)]))
    read = family.samples[0].value
    assert read == value or (math.isnan(read) and math.isnan(value))


async def test_the_page_is_valid_and_counts_the_apis_own_traffic() -> None:
    node = ScriptedNode()
    node.extra_metrics = [("kowalski_round_trip_seconds", "gauge", "R.", {"peer": "x"}, 0.001)]
    async with serving(node) as port:
        for path in ("/api/health", "/api/health", "/api/tasks/00"):
            await ask(port, "GET", path)
        answer = await ask(port, "GET", "/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {f.name: f for f in text_string_to_metric_families(answer.body.decode())}
        assert families["kowalski_round_trip_seconds"].samples[0].value == 0.001
        counted = {
            (sample.labels["operation"], sample.labels["status"]): sample.value
            for sample in families["kowalski_http_requests"].samples
        }
        assert counted == {("health", "200"): 2, ("get_task", "404"): 1}


async def test_no_metric_holds_what_people_wrote() -> None:
    async with serving(ScriptedNode()) as port:
        args = {"value": CANARY}
        spec = {"kind": "tool", "payload": {"tool": "echo", "args": args}, "labels": {"x": CANARY}}
        await ask(port, "POST", "/api/tasks", spec)
        await ask(port, "GET", f"/api/tasks/{CANARY}")
        await ask(port, "GET", f"/{CANARY}?{CANARY}={CANARY}")
        await ask(port, CANARY.upper(), "/api/tasks")
        assert CANARY not in (await ask(port, "GET", "/metrics")).body.decode().lower()
