"""docs/reference/http.md: every path of the API, from the table that the router is made of."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kowalski_gateway.http.answers import http_status
from kowalski_gateway.http.calls import BYTES, EVENTS, JSON, Route
from kowalski_gateway.http.inputs import NoQuery
from kowalski_gateway.http.openapi import openapi_document
from kowalski_gateway.http.routes import ROUTES
from kowalski_protocol.errors import Problem

from .markdown import code, page, table
from .source import doc_of, fields


def _everywhere() -> list[str]:
    """The errors that any path may answer: those of an operation that names none of its own."""
    plain = next(route for route in ROUTES if not route.errors)
    operation = openapi_document()["paths"][plain.path][plain.method.lower()]
    told = [answer["description"] for code, answer in operation["responses"].items() if code >= "4"]
    return re.findall(r"`(\w+)`: ", "; ".join(told))


def _path_parameters(route: Route[Any, Any]) -> list[tuple[str, str, str, str]]:
    operation = openapi_document()["paths"][route.path][route.method.lower()]
    return [
        (code(one["name"]), "path", "", one["description"])
        for one in operation["parameters"]
        if one["in"] == "path"
    ]


def render() -> str:
    """The page."""
    groups = list(dict.fromkeys(route.group for route in ROUTES))
    blocks: list[str] = []
    for group in groups:
        blocks.append(f"## {group}")
        for route in ROUTES:
            if route.group == group:
                blocks += _route(route)
    return page(
        "HTTP API",
        "Each node serves this on `127.0.0.1:52420` unless `--api` says otherwise. `GET"
        " /openapi.json` describes the same for programs. Bodies are JSON unless a path says"
        " otherwise, and must be sent with their `Content-Type`.",
        "**Who may ask.** On the loopback no token is needed unless the node was started with"
        " `--api-token`; on any other address one is (`Authorization: Bearer TOKEN`). Requests"
        " whose `Host`, `Origin` or `Sec-Fetch-Site` header names something else than this API are"
        " refused, so that web pages can't use it.",
        f"**Errors** have the form of [errors](errors.md). Besides those of a path any path may"
        f" answer {_errors(_everywhere())}.",
        "**Streams** are server-sent events: one JSON object per `data:` line. A comment keeps a"
        " quiet stream open; the last event is `end`, or `error` with the usual body. Events of the"
        " ledger carry their position as `id:`, so `Last-Event-ID` goes on where a stream broke"
        " off.",
        *blocks,
        "## Types",
        *_types(),
    )


def _route(route: Route[Any, Any]) -> Iterator[str]:
    yield f"### {route.method} {route.path}"
    yield route.summary
    parameters = _path_parameters(route)
    if route.query is not NoQuery:
        parameters += [
            (code(n), shown, default, doc) for n, shown, default, doc in _of(route.query)
        ]
    if parameters:
        yield table(("parameter", "type", "default", "meaning"), parameters)
    body = route.documented_body if route.documented_body is not None else route.body
    lines: list[str] = []
    if body is not None:
        lines.append(f"- Body: {_link(body)}, at most {_size(route.body_bytes_max)}.")
    elif route.body_media == BYTES:
        lines.append("- Body: the bytes, as `application/octet-stream`.")
    lines.append(f"- Answer {route.status}: {_answer(route)}.")
    if route.reply_200 is not None:
        lines.append(f"- Answer 200, with `wait_s`: {_link(route.reply_200)}.")
    if route.errors:
        lines.append(f"- Errors: {_errors(route.errors)}.")
    yield "\n".join(lines)


def _answer(route: Route[Any, Any]) -> str:
    if route.reply_media == EVENTS:
        return f"a stream of {_link(route.reply)}"
    if route.reply_media == BYTES:
        return "the bytes"
    return _link(route.reply) if route.reply_media == JSON else f"text ({code(route.reply_media)})"


def _errors(codes: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}` ({http_status(Problem(name, ''))})" for name in codes)


def _size(size_bytes: int) -> str:
    mebibytes, rest = divmod(size_bytes, 1 << 20)
    return f"{size_bytes >> 10} KiB" if rest else f"{mebibytes} MiB"


# Types.


def _structs(kind: Any) -> Iterator[type[Any]]:
    """The structs that a type names, and those within them."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from _structs(hint)
    for argument in typing.get_args(kind):
        yield from _structs(argument)


def _types() -> Iterator[str]:
    sent: dict[str, type[Any]] = {}
    named: dict[str, type[Any]] = {}
    for route in ROUTES:
        body = route.documented_body if route.documented_body is not None else route.body
        sent |= {cls.__name__: cls for cls in _structs(body)}
        for kind in (body, route.reply, route.reply_200):
            named |= {cls.__name__: cls for cls in _structs(kind)}
    for name in sorted(named):
        yield f"### {name}"
        yield doc_of(named[name])
        rows = [
            (code(n), shown, default if name in sent else "", doc)
            for n, shown, default, doc in _of(named[name])
        ]
        yield table(("field", "type", "default", "meaning"), rows)


def _of(cls: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    said = {s.name: s for s in fields(cls)}
    for info in msgspec.structs.fields(cls):
        default = "required"
        if info.default is not msgspec.NODEFAULT:
            default = code(msgspec.json.encode(info.default).decode())
        elif info.default_factory is not msgspec.NODEFAULT:
            default = code(msgspec.json.encode(info.default_factory()).decode())
        hint = hints[info.name]
        meaning = _description(hint) or said[info.name].doc
        yield info.encode_name, _shown(hint), default, meaning


def _description(hint: Any) -> str:
    if typing.get_origin(hint) is not Annotated:
        return ""
    inner, *notes = typing.get_args(hint)
    for note in notes:
        if isinstance(note, Meta) and note.description:
            return note.description
    return _description(inner)


JSON_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def _shown(hint: Any) -> str:
    """A type in JSON's words, a struct as a link."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [_bounds(note) for note in arguments[1:] if isinstance(note, Meta)]
        return " ".join([_shown(arguments[0]), *filter(None, bounds)])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_shown(a) for a in arguments)
    if origin is typing.Literal:
        return " or ".join(code(a) for a in arguments)
    if origin in (list, tuple):
        return f"list of {_shown(arguments[0])}"
    if origin is dict:
        return f"object of {_shown(arguments[1])}"
    if hint is type(None) or hint is None:
        return "null"
    if hint is Any:
        return "any"
    name: str | None = JSON_NAMES.get(hint)
    return name or f"[{hint.__name__}](#{hint.__name__.lower()})"


def _bounds(meta: Meta) -> str:
    low, high = meta.ge, meta.le
    if low is not None and high is not None:
        return f"({low:g} to {high:g})" if high < 1e9 else f"(from {low:g})"
    if low is not None:
        return f"(from {low:g})"
    if meta.max_length is not None:
        return f"(at most {meta.max_length:,})"
    return ""


def _link(kind: Any) -> str:
    return f"a {_shown(kind)}" if typing.get_origin(kind) is list else _shown(kind)
