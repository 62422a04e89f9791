"""The reflection service: which methods an endpoint has, what they take and give.

By default it answers on local (in-process, Unix socket, loopback) and authenticated sessions only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, Literal

import msgspec

from echostream_core.engine.context import Context
from echostream_core.engine.handlers import Route, handler, service
from echostream_core.errors import ConfigError, RpcError, StatusCode
from echostream_core.types import Url

__all__ = ["Reflection", "describe"]


@service("echostream.reflection")
class Reflection:
    """Describes the routes of one endpoint."""

    def __init__(self, routes: Callable[[], Mapping[str, Route]], policy: Literal["auto", "on", "off"]) -> None:
        """``routes`` answers what there is at the moment of the call."""
        self._routes = routes
        self._policy = policy

    @handler
    def methods(self, ctx: Context) -> list[dict[str, object]]:
        """Every method: name, kind (call, generator, stream), shape and JSON Schemas of payload and answer, doc."""
        if self._policy == "auto" and not (ctx.peer_identity or _is_local(ctx)):
            raise RpcError(
                StatusCode.PERMISSION_DENIED,
                "reflection answers local and authenticated sessions only; the server may set reflection = true",
            )
        return [describe(route) for _, route in sorted(self._routes().items())]


def _is_local(ctx: Context) -> bool:
    if ctx.session.capabilities.in_process:
        return True
    try:
        url = Url.parse(ctx.session.peer)
        return not url.host or ip_address(url.host).is_loopback
    except (ConfigError, ValueError):
        return False


def describe(route: Route) -> dict[str, object]:
    """One route as plain data."""
    signature = route.signature
    parameters = {name: _schema(annotation) for name, annotation, _ in signature.parameters}
    payload: object = None
    if signature.shape == "one":
        payload = next(iter(parameters.values()))
    elif signature.shape == "map":
        required = [name for name, _, default in signature.parameters if default is msgspec.NODEFAULT]
        payload = {"type": "object", "properties": parameters, "required": required}
    return {
        "name": route.name,
        "kind": route.kind,
        "shape": signature.shape,
        "payload": payload,
        "returns": _schema(signature.returns),
        "doc": route.doc,
    }


def _schema(annotation: Any) -> dict[str, object]:
    if annotation in (inspect.Parameter.empty, Any, object):
        return {}
    try:
        return msgspec.json.schema(annotation)
    except TypeError:
        return {"description": f"{annotation!r}"[:200]}
