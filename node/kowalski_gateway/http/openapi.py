"""openapi.json, made from the table of routes and the types that it names.

Nothing is written here that the table or a type doesn't say: parameters come from the query types,
bodies and answers from the structs by msgspec's own JSON schemas (2020-12, which is OpenAPI
3.1's), errors from the catalogue.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from kowalski_node import __version__
from kowalski_protocol.errors import CODES, Problem

from .answers import ErrorBody, http_status
from .calls import BYTES, JSON, Route
from .routes import ROUTES

_REF: Final = "#/components/schemas/{name}"
_EVERYWHERE: Final = ("foreign_origin", "unauthorized", "too_many_requests", "internal")
_PATH_PARAMETERS: Final = {
    "id": "The task's id, or the first characters of it where they are unique.",
    "hash": "The hex SHA-256 of the blob.",
}


@cache
def openapi_bytes() -> bytes:
    """The document, encoded once."""
    return msgspec.json.format(msgspec.json.encode(openapi_document()), indent=1)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 description of the API."""
    types = [kind for route in ROUTES for kind in _types(route)]
    schemas, components = msgspec.json.schema_components([*types, ErrorBody], ref_template=_REF)
    error_schema = schemas[-1]
    found = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        described = {role: next(found) for role in _roles(route)}
        operation = _operation(route, described, components, error_schema)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kowalski",
            "version": __version__,
            "description": "The API of one node. Errors have a stable `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:52420"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _roles(route: Route[Any, Any]) -> list[str]:
    """Which schemas a route needs, in a fixed order."""
    has = (
        ("query", True),
        ("body", _body_type(route) is not None),
        ("reply", _has_schema(route)),
        ("reply_200", route.reply_200 is not None),
    )
    return [role for role, needed in has if needed]


def _types(route: Route[Any, Any]) -> list[Any]:
    by_role = {
        "query": route.query,
        "body": _body_type(route),
        "reply": route.reply,
        "reply_200": route.reply_200,
    }
    return [by_role[role] for role in _roles(route)]


def _body_type(route: Route[Any, Any]) -> Any:
    return route.documented_body if route.documented_body is not None else route.body


def _has_schema(route: Route[Any, Any]) -> bool:
    return route.reply is not None and route.reply_media != BYTES


def _operation(
    route: Route[Any, Any],
    described: dict[str, Any],
    components: dict[str, Any],
    error_schema: dict[str, Any],
) -> dict[str, Any]:
    reply = described.get("reply", {})
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.group],
        "parameters": _parameters(route, described["query"], components),
        "responses": {
            str(route.status): {
                "description": route.summary,
                "content": {route.reply_media: {"schema": reply}},
            }
        },
    }
    if route.reply_200 is not None:
        operation["responses"]["200"] = {
            "description": "The same, when the request asked to wait.",
            "content": {JSON: {"schema": described["reply_200"]}},
        }
    if route.body_media is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {route.body_media: {"schema": described.get("body", {})}},
        }
    by_status: dict[int, list[str]] = {}
    for code in (*route.errors, *_EVERYWHERE):
        by_status.setdefault(http_status(Problem(code, "")), []).append(code)
    for status, codes in sorted(by_status.items()):
        operation["responses"][str(status)] = {
            "description": "; ".join(f"`{code}`: {CODES[code].meaning}" for code in codes),
            "content": {JSON: {"schema": error_schema}},
        }
    return operation


def _parameters(
    route: Route[Any, Any], query: dict[str, Any], components: dict[str, Any]
) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": {"type": "string"},
        }
        for name in (part[1:-1] for part in route.path.split("/") if part.startswith("{"))
    ]
    fields: dict[str, Any] = components[query["$ref"].rpartition("/")[2]]["properties"]
    for name, schema in fields.items():
        parameter: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
        if "description" in schema:
            parameter["description"] = schema["description"]
        parameters.append(parameter)
    return parameters
