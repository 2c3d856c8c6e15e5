"""The one table of the API: the router, the reference and openapi.json are made from it."""

from __future__ import annotations

from typing import Any, Final

from .blob_routes import BLOB_ROUTES
from .calls import Route
from .cluster_routes import CLUSTER_ROUTES
from .task_routes import TASK_ROUTES

ROUTES: Final[tuple[Route[Any, Any], ...]] = (*TASK_ROUTES, *BLOB_ROUTES, *CLUSTER_ROUTES)
"""In the order in which paths are matched: a fixed path before one with a parameter in its place.
"""
