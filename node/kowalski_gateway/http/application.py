"""The ASGI application: guard, router, and one place where problems become answers.

The router is Starlette's, filled from the table in `routes`; each path answers the methods that
the table has for it and says 405 to the others.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import trio
from starlette import routing
from starlette.requests import Request

from kowalski_protocol.errors import Problem

from .answers import error_answer
from .bounds import HttpBounds
from .calls import Operation, Route, Site, Traffic
from .exchange import ClientGone
from .guard import Guard
from .routes import ROUTES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from kowalski_node.port import NodePort

_log = logging.getLogger("kowalski.http")


class Path:
    """One path of the API, with an operation per method."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.operations: dict[str, Operation] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        request = Request(scope, receive)
        method = request.method
        operation = self.operations.get("GET" if method == "HEAD" else method)
        name = "unknown" if operation is None else operation.route.name
        try:
            if operation is None:
                raise Problem("method_not_allowed", f"This path does not know {method[:16]}.")
            response = await operation.call(self._site, request)
        except Problem as problem:
            allow = ", ".join(sorted(self.operations))
            response = error_answer(problem, {"allow": allow} if operation is None else None)
        except ClientGone:
            raise
        except Exception:  # guard: a broken handler is one answer 500, told in the log
            _log.exception("The handler of %s failed.", name)
            response = error_answer(
                Problem("internal", "This node made a mistake; its log has the details.")
            )
        self._site.traffic.count(name, response.status_code, began)
        await response(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem("not_found", "The API has no such path; GET /openapi.json lists them.")
    await error_answer(problem)(scope, receive, send)


def application(
    node: NodePort,
    host: str,
    port_number: int,
    token: str | None,
    bounds: HttpBounds,
    stopping: trio.Event,
) -> ASGIApp:
    """The API of a node that is bound to host:port_number."""
    site = Site(node, bounds, stopping, Traffic())
    guard = Guard(host, port_number, token)
    router = routing.Router(routes=_routes(site), redirect_slashes=False, default=_not_found)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = guard.refusal(scope["headers"], scope["server"][0])
        if refusal is not None:
            await error_answer(refusal)(scope, receive, send)
        else:
            await router(scope, receive, send)

    return app


def _routes(site: Site) -> list[routing.BaseRoute]:
    paths: dict[str, Path] = {}
    for route in ROUTES:
        paths.setdefault(route.path, Path(site)).operations[route.method] = _ready(route)
    return [routing.Route(path, endpoint) for path, endpoint in paths.items()]


def _ready(route: Route[Any, Any]) -> Operation:
    return Operation(route)
