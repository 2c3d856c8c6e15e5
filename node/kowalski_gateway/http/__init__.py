"""The HTTP API of a node: `serve_api` over `kowalski_node.port.NodePort`.

`server`, `connection` and `exchange` speak HTTP (h11 on trio), `guard` says who may ask, `calls`
and `application` turn requests into typed calls, and the `*_routes` files say what each path does.
"""

from __future__ import annotations

from .server import serve_api

__all__ = ["serve_api"]
