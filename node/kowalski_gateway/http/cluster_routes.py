"""The cluster over HTTP: its state, its events, its door for newcomers, its weights, and the
node's figures."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from kowalski_node import __version__
from kowalski_node.views import ClusterView, EventView, InviteView
from kowalski_protocol.errors import Problem

from .answers import SAFETY_HEADERS, json_answer
from .bounds import BOUNDS
from .calls import EVENTS, JSON, Call, Route
from .event_stream import EventStream
from .inputs import EventsQuery, HealthAnswer, InviteRequest, NoQuery, WeightsRequest
from .metrics import METRICS_MEDIA, metrics_text, traffic_rows

Weights = dict[str, dict[str, float]]


async def health(call: Call[NoQuery, None]) -> Response:
    if call.site.stopping.is_set():
        raise Problem("stopping", "This node is stopping.")
    if not call.node.ready():
        raise Problem("not_ready", "This node is starting.")
    return json_answer(HealthAnswer(True, __version__))


async def cluster(call: Call[NoQuery, None]) -> Response:
    return json_answer(call.node.cluster())


async def events(call: Call[EventsQuery, None]) -> Response:
    after = call.query.after
    if after is None:
        after = _last_event_id(call.request.headers.get("last-event-id", ""))
    source = call.node.events(after=after, follow=call.query.follow)
    return EventStream(call.site, source, _position)


def _position(event: EventView) -> int:
    return event.position


def _last_event_id(text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Problem("bad_request", "Last-Event-ID must be the position of an event.")
    return int(text)


async def invite(call: Call[NoQuery, InviteRequest]) -> Response:
    return json_answer(await call.node.invite(call.body.role), 201)


async def get_weights(call: Call[NoQuery, None]) -> Response:
    return json_answer(call.node.weights())


async def put_weights(call: Call[NoQuery, WeightsRequest]) -> Response:
    return json_answer(await call.node.set_weights(call.body.kind, call.body.weights))


async def metrics(call: Call[NoQuery, None]) -> Response:
    text = metrics_text([*call.node.metrics(), *traffic_rows(call.site.traffic)])
    return Response(text, 200, SAFETY_HEADERS, METRICS_MEDIA)


async def openapi(call: Call[NoQuery, None]) -> Response:
    from .openapi import openapi_bytes  # made from the whole table, which contains this handler

    return Response(openapi_bytes(), 200, SAFETY_HEADERS, JSON)


GROUP: Final = "Cluster"
CLUSTER_ROUTES: Final[tuple[Route[Any, Any], ...]] = (
    Route(
        method="GET",
        path="/api/health",
        name="health",
        group=GROUP,
        summary="Whether this node takes work.",
        handler=health,
        reply=HealthAnswer,
        errors=("not_ready", "stopping"),
    ),
    Route(
        method="GET",
        path="/api/cluster",
        name="cluster",
        group=GROUP,
        summary="The cluster as this node sees it: leader, digest, heads, devices, warnings.",
        handler=cluster,
        reply=ClusterView,
    ),
    Route(
        method="GET",
        path="/api/events",
        name="events",
        group=GROUP,
        summary="The ledger's events in the order in which they came here, live.",
        handler=events,
        query=EventsQuery,
        reply=EventView,
        reply_media=EVENTS,
        errors=("bad_request",),
    ),
    Route(
        method="POST",
        path="/api/invites",
        name="invite",
        group=GROUP,
        summary="Opens the join door for one newcomer and answers with the token for it.",
        handler=invite,
        body=InviteRequest,
        body_bytes_max=BOUNDS.small_body_bytes_max,
        body_media=JSON,
        status=201,
        reply=InviteView,
        errors=("bad_request", "not_allowed", "not_supported", "unsupported_media_type"),
    ),
    Route(
        method="GET",
        path="/api/weights",
        name="get_weights",
        group=GROUP,
        summary="The placement weights in force, by task kind.",
        handler=get_weights,
        reply=Weights,
    ),
    Route(
        method="PUT",
        path="/api/weights",
        name="put_weights",
        group=GROUP,
        summary="Changes the placement weights of one task kind.",
        handler=put_weights,
        body=WeightsRequest,
        body_bytes_max=BOUNDS.small_body_bytes_max,
        body_media=JSON,
        reply=Weights,
        errors=("bad_request", "not_allowed", "unknown_kind", "unsupported_media_type"),
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        group=GROUP,
        summary="This node's figures in Prometheus' text format.",
        handler=metrics,
        reply=str,
        reply_media=METRICS_MEDIA,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        group=GROUP,
        summary="This description of the API.",
        handler=openapi,
        reply=dict[str, Any],
    ),
)
