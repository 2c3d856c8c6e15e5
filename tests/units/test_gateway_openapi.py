"""openapi.json is a valid description, of exactly the API that is served.

The rules of OpenAPI 3.1 that a generator of clients trips over are checked here by hand; a whole
validator would bring twenty packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kowalski_gateway.http.inputs import TaskRequest, Waiting
from kowalski_gateway.http.openapi import openapi_document
from kowalski_gateway.http.routes import ROUTES
from kowalski_node.client import TaskOptions
from kowalski_protocol import tasks
from kowalski_protocol.errors import CODES
from tests.ports.api_world import ask, serving
from tests.ports.scripted_node import ScriptedNode

DOCUMENT = openapi_document()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_it_is_served_as_it_is_made() -> None:
    async with serving(ScriptedNode()) as port:
        answer = await ask(port, "GET", "/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == DOCUMENT


def test_the_document_has_the_fields_that_openapi_wants() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    assert set(DOCUMENT) <= {"openapi", "info", "servers", "security", "paths", "components"}


def test_every_route_is_described_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, method, _ in operations()}
    assert described == {(route.method, route.path) for route in ROUTES}


def test_the_contracts_paths_are_all_there() -> None:
    assert {(route.method, route.path) for route in ROUTES} >= {
        ("GET", "/api/health"),
        ("GET", "/api/cluster"),
        ("POST", "/api/tasks"),
        ("POST", "/api/tasks/batch"),
        ("GET", "/api/tasks/{id}"),
        ("GET", "/api/tasks"),
        ("DELETE", "/api/tasks/{id}"),
        ("GET", "/api/tasks/{id}/why"),
        ("GET", "/api/tasks/{id}/output"),
        ("GET", "/api/events"),
        ("PUT", "/api/blobs"),
        ("GET", "/api/blobs/{hash}"),
        ("POST", "/api/invites"),
        ("GET", "/api/weights"),
        ("PUT", "/api/weights"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    }


def test_operation_ids_are_names_and_unique() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z_]+", name) for name in names)


def test_every_reference_leads_to_a_schema() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for reference in references(DOCUMENT):
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_parameters_of_the_path_are_those_in_it() -> None:
    for path, _, operation in operations():
        parameters = operation["parameters"]
        in_path = {one["name"] for one in parameters if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        assert all(one["required"] for one in parameters if one["in"] == "path")
        keys = [(one["in"], one["name"]) for one in parameters]
        assert len(set(keys)) == len(keys)
        assert all("schema" in one for one in parameters)


def test_every_operation_says_what_it_answers_and_how_it_refuses() -> None:
    for path, method, operation in operations():
        responses = operation["responses"]
        assert all(re.fullmatch("[2-5][0-9][0-9]", status) for status in responses)
        assert all(response["description"] for response in responses.values())
        assert any(status.startswith("2") for status in responses), (path, method)
        assert "403" in responses
        for status, response in responses.items():
            if status >= "400":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}


def test_only_codes_of_the_catalogue_are_named() -> None:
    for route in ROUTES:
        assert set(route.errors) <= set(CODES)
        assert route.summary.endswith(".")


WITHOUT_BODY = ("resubmit_task",)
"""What is asked for by the path alone."""


def test_bodies_are_described_where_there_are_any() -> None:
    for _, method, operation in operations():
        takes_one = method in ("post", "put") and operation["operationId"] not in WITHOUT_BODY
        assert ("requestBody" in operation) == takes_one


def test_the_described_task_is_the_one_that_is_taken() -> None:
    """The description of a task stands apart from what checks it, so they are compared here."""
    described = set(TaskRequest.__struct_fields__)
    assert described == set(tasks._FIELDS)  # pyright: ignore[reportPrivateUsage]
    submission = DOCUMENT["components"]["schemas"]["TaskSubmission"]["properties"]
    assert set(submission) == described | set(Waiting.__struct_fields__)
    assert set(TaskOptions.__annotations__) == described - {"kind", "payload"}


@pytest.mark.parametrize("field", [f for f in TaskRequest.__struct_fields__ if f != "kind"])
def test_the_described_defaults_are_taken_as_they_are(field: str) -> None:
    spec: dict[str, Any] = {"kind": "tool", "payload": {"tool": "echo", "args": {}}}
    default = {
        one.name: one.default if one.default is not msgspec.NODEFAULT else one.default_factory
        for one in msgspec.structs.fields(TaskRequest)
    }[field]
    if default is not msgspec.NODEFAULT:
        spec[field] = default() if callable(default) else default
    tasks.parse_task(spec)
