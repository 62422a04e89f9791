"""What a request is answered with: the WebSocket that listens at its path, a page, health, or a refusal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from echostream_core.transport import Acceptor
from echostream_tcp._log import printable
from echostream_websocket._http import Answer, BadHead, Headers, Request, accept_upgrade, path_of, same_secret, single
from echostream_websocket.options import WsOptions, WssOptions
from echostream_websocket.pages import Page

__all__ = ["Decision", "Route", "decide", "refusal"]

_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One path of a port, and who listens there."""

    path: str
    shown_path: str
    """The path as it stands at the end of addresses: quoted, "" where none was given."""
    options: WsOptions
    pages: Mapping[str, Page]
    accept: Acceptor


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request: ``upgraded`` is sent and ``route`` gets the connection, or ``answer`` is sent."""

    answer: Answer | None = None
    complaint: str = ""
    """What the log is told; empty: an everyday request."""
    route: Route | None = None
    upgraded: bytes = b""


def refusal(status: HTTPStatus, text: str, complaint: str = "", headers: Mapping[str, str] | None = None) -> Decision:
    """Answer with ``text``; the log is told ``complaint``."""
    return Decision(Answer(status, f"{text}\n", headers=headers), complaint)


def decide(request: Request, routes: Mapping[str, Route], *, closing: bool) -> Decision:
    """What to do with ``request``. Nothing in a refusal tells what else there is."""
    try:
        upgrading = _wants_upgrade(request)
        if closing:
            return _closing(request, routes.values(), upgrading)
        return _upgrade(request, routes) if upgrading else _plain(request, routes)
    except BadHead as error:
        return refused_head(error)


def refused_head(error: BadHead) -> Decision:
    """The answer to a head that is not as it must be."""
    headers = {}
    if error.status == HTTPStatus.UPGRADE_REQUIRED:
        headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    elif error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": "GET, HEAD"}
    return refusal(error.status, _ascii(str(error)), f"its request is refused: {_ascii(str(error))}", headers)


def _ascii(text: str) -> str:
    """A text that may have a peer's words in it, for a log and an answer."""
    return printable(text, 160)[1:-1]


def _wants_upgrade(request: Request) -> bool:
    return "websocket" in ",".join(request.headers.get_all("Upgrade")).lower()


def _closing(request: Request, routes: Iterable[Route], upgrading: bool) -> Decision:
    path = path_of(request.path)
    if not upgrading and any(path == route.options.health_path for route in routes):
        return Decision(_json(HTTPStatus.SERVICE_UNAVAILABLE, '{"status":"closing"}'))
    return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "This server is closing.", headers={"Retry-After": "5"})


def _json(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, text, content_type="application/json")


def _plain(request: Request, routes: Mapping[str, Route]) -> Decision:
    """A request that is not for a WebSocket."""
    if request.method not in ("GET", "HEAD"):
        raise BadHead(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here")
    path = path_of(request.path)
    for route in routes.values():
        if route.options.health_path and path == route.options.health_path:
            return Decision(_json(HTTPStatus.OK, '{"status":"ok"}'))
    for route in routes.values():
        page = route.pages.get(path)
        if page is not None:
            return Decision(Answer(HTTPStatus.OK, page.body, content_type=page.content_type))
    if path in routes:
        return refusal(
            HTTPStatus.UPGRADE_REQUIRED,
            "This address speaks EchoStream over WebSocket: use a client, not a browser's address bar.",
            headers={"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
        )
    return refusal(HTTPStatus.NOT_FOUND, "There is nothing here.")


def _upgrade(request: Request, routes: Mapping[str, Route]) -> Decision:
    if request.method != "GET":
        raise BadHead(HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket begins with GET")
    path = path_of(request.path)
    route = routes.get(path) or (routes.get("/") if path == "" else None)
    if route is None:
        return refusal(HTTPStatus.NOT_FOUND, "No WebSocket listens at this path.", f"no such path: {printable(path)}")
    options = route.options
    if options.authorization:
        given = single(request.headers, "Authorization")
        if given is None or not same_secret(given, options.authorization):
            basic = options.authorization.lower().startswith("basic ")
            challenge = 'Basic realm="echostream"' if basic else 'Bearer realm="echostream"'
            what = "no authorization" if given is None else "a wrong authorization"
            return refusal(
                HTTPStatus.UNAUTHORIZED,
                "This WebSocket demands an Authorization header.",
                f"it shows {what}",
                {"WWW-Authenticate": challenge},
            )
    origin = single(request.headers, "Origin")
    encrypted = isinstance(options, WssOptions)
    if origin is not None and not origin_admitted(origin, options.origins, request.headers, encrypted=encrypted):
        return refusal(
            HTTPStatus.FORBIDDEN,
            "This origin is not admitted (the listener's option origins).",
            f"the origin {printable(origin)} is not "
            + ("among origins" if options.origins else "of this very host; the option origins admits others"),
        )
    return Decision(route=route, upgraded=accept_upgrade(request))


def _without_default_port(origin: str) -> str:
    """As browsers write it: they leave out the port that the scheme has anyway."""
    origin = origin.lower()
    port = _DEFAULT_PORTS.get(origin.partition("://")[0])
    return origin.removesuffix(f":{port}") if port else origin


def origin_admitted(origin: str, admitted: Iterable[str], headers: Headers, *, encrypted: bool) -> bool:
    """Whether a page from ``origin`` may connect; without a list only one that came from this very host.

    To an ``encrypted`` listener not one that came in the clear: who can change such a page on its way would act with
    its visitor's certificate.
    """
    admitted = list(admitted)
    if admitted:
        return "*" in admitted or _without_default_port(origin) in map(_without_default_port, admitted)
    try:
        page = urlsplit(origin)
        default = _DEFAULT_PORTS.get(page.scheme)
        here = urlsplit(f"//{single(headers, 'Host') or ''}")
        return (
            default is not None
            and (page.scheme in ("https", "wss") or not encrypted)
            and bool(page.hostname)
            and page.hostname == here.hostname
            and (page.port or default) == (here.port or default)
        )
    except ValueError:
        return False
