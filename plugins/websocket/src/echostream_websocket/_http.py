"""The border to the sans-I/O layer of ``websockets``: HTTP heads to objects, and what a handshake must contain.

The library's exceptions end here. Heads come whole: that they are bounded in bytes and time is the caller's business.
"""

from __future__ import annotations

import hmac
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import quote, unquote, urlsplit

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidUpgrade, SecurityError
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from echostream_core.types import Url

__all__ = [
    "END_OF_HEAD",
    "MAX_HEAD_BYTES",
    "SUBPROTOCOL",
    "Answer",
    "BadHead",
    "Headers",
    "ProxyAddress",
    "Question",
    "Request",
    "Response",
    "accept_upgrade",
    "environment_proxy",
    "parse_request",
    "parse_response",
    "path_of",
    "proxy_address",
    "quoted_path",
    "same_secret",
    "single",
    "wire_host",
]

SUBPROTOCOL: Final = "echostream.v1"
MAX_HEAD_BYTES: Final = 16_384
"""The request line, or the status line, and all headers together."""
END_OF_HEAD: Final = b"\r\n\r\n"
_SOCKS_PORT: Final = 1_080
_SAFE_IN_PATH: Final = "/:@!$&'()*+,;=~-._"

T = TypeVar("T")


class BadHead(Exception):
    """Not a head of HTTP that we take; the message says why, ``status`` is the answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def quoted_path(url: Url) -> str:
    """The URL's path as it stands in a request line."""
    return quote(url.path or "/", safe=_SAFE_IN_PATH)


def path_of(target: str) -> str:
    """The path that a request's target names, decoded, without what follows the question mark."""
    return unquote(target.partition("?")[0])


def single(headers: Headers, name: str) -> str | None:
    """The value of a header that may come once; None without it. BadHead when it comes more often."""
    values = headers.get_all(name)
    if len(values) > 1:
        raise BadHead(HTTPStatus.BAD_REQUEST, f"the header {name} comes more than once")
    return values[0] if values else None


def parse_request(head: bytes) -> Request:
    """Read a request's head, end included. Raises BadHead."""
    reader = _reader(head)
    try:
        request = _run(Request.parse(reader.read_line))
    except (ValueError, NotImplementedError) as error:
        method = head.split(b" ", 1)[0]
        if method.isalpha() and method not in (b"GET", b"HEAD"):
            raise BadHead(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here") from error
        what = "the request line is not ASCII" if isinstance(error, UnicodeError) else str(error)
        raise BadHead(HTTPStatus.BAD_REQUEST, what) from error
    except (EOFError, SecurityError) as error:
        raise BadHead(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, str(error) or "too many headers") from error
    if not request.path.startswith("/"):
        raise BadHead(HTTPStatus.BAD_REQUEST, "the target of the request must be a path")
    host = single(request.headers, "Host")
    if host is None and request.protocol == "HTTP/1.1":
        raise BadHead(HTTPStatus.BAD_REQUEST, "the header Host is missing")
    return request


def parse_response(head: bytes) -> Response:
    """Read a response's head, end included; its body is not. Raises BadHead."""
    reader = _reader(head)
    try:
        return _run(Response.parse(reader.read_line, reader.read_exact, reader.read_to_eof, proxy=True))
    except (ValueError, LookupError, NotImplementedError, EOFError, SecurityError) as error:
        raise BadHead(HTTPStatus.BAD_GATEWAY, str(error)) from error


def _reader(head: bytes) -> StreamReader:
    reader = StreamReader()
    reader.feed_data(head)
    reader.feed_eof()
    return reader


def _run(parsing: Generator[None, None, T]) -> T:
    """What a parser of the library makes of a whole head."""
    try:
        next(parsing)
    except StopIteration as done:
        result: T = done.value
        return result
    raise EOFError("the head is not complete")


# --- the listener's side


class Answer:
    """A response of ours."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: HTTPStatus,
        body: bytes | str = b"",
        *,
        content_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.body = body.encode("utf-8") if isinstance(body, str) else body
        self.headers = {"Content-Type": content_type, **(headers or {})}

    def head(self) -> bytes:
        """What stands before the body. The connection ends behind that."""
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Date: {formatdate(usegmt=True)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        return "\r\n".join(lines).encode("latin-1") + END_OF_HEAD


def accept_upgrade(request: Request) -> bytes:
    """The 101 that accepts ``request``; BadHead with the right status when it is no handshake of ours."""
    if request.headers.get_all("Sec-WebSocket-Version") != ["13"]:
        raise BadHead(HTTPStatus.UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken here")
    offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
    if SUBPROTOCOL not in (item.strip() for item in offered.split(",")):
        raise BadHead(HTTPStatus.BAD_REQUEST, f"the subprotocol {SUBPROTOCOL} is not offered: no EchoStream client")
    # No extension is available, so none is agreed on: frames are never compressed. The session compresses by itself.
    protocol = ServerProtocol(subprotocols=[Subprotocol(SUBPROTOCOL)], extensions=None)
    response = protocol.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        cause = protocol.handshake_exc
        raise BadHead(HTTPStatus(response.status_code), str(cause or response.reason_phrase)) from cause
    return response.serialize()


def same_secret(given: str, wanted: str) -> bool:
    """Compare without telling by the time it takes where the two differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode("utf-8", "surrogateescape"))


# --- the dialer's side


class Question:
    """A dialer's handshake."""

    def __init__(self, url: Url, *, secure: bool, headers: Mapping[str, str]) -> None:
        """``headers`` are sent beside those that the handshake consists of."""
        self._uri = _websocket_uri(url, secure=secure)
        self._protocol = ClientProtocol(self._uri, subprotocols=[Subprotocol(SUBPROTOCOL)], extensions=None)
        request = self._protocol.connect()
        for name, value in headers.items():
            request.headers[name] = value
        self.request = request.serialize()

    def refusal(self, response: Response, head: bytes) -> str | None:
        """What is wrong with a 101 in answer to the handshake, as what follows "the server"; None: nothing."""
        if not head.startswith(b"HTTP/1.1 "):
            return "does not speak HTTP/1.1"
        try:
            self._protocol.process_response(response)
        except InvalidUpgrade as error:
            return f"did not change to WebSocket: {error}"
        except InvalidHandshake as error:
            return f"broke the WebSocket handshake: {error}"
        if self._protocol.subprotocol != SUBPROTOCOL:
            return f"speaks WebSocket but not the subprotocol {SUBPROTOCOL}: no EchoStream server at this path"
        return None


def wire_host(url: Url) -> str:
    """The URL's host as requests name it: ASCII, and without the zone of an IPv6 address, which is nobody else's.

    Raises UnicodeError when it can be no host's name.
    """
    host = url.host.partition("%")[0] if ":" in url.host else url.host
    name = host.encode("idna").decode("ascii")
    if not name.isprintable() or " " in name:
        raise UnicodeError("blanks and control signs do not belong in a name")
    return name


def _websocket_uri(url: Url, *, secure: bool) -> WebSocketURI:
    port = url.port or (443 if secure else 80)
    return WebSocketURI(secure=secure, host=wire_host(url), port=port, path=quoted_path(url), query="")


def environment_proxy(url: Url, *, secure: bool) -> str | None:
    """The proxy that the environment and the system name for ``url``, as ``websockets`` reads them; None: none."""
    from websockets.proxy import get_proxy

    return get_proxy(_websocket_uri(url, secure=secure))


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """A proxy, and who we are to it."""

    at: Url
    username: str | None
    password: str | None = field(repr=False)
    connect: bytes = field(repr=False)
    """The CONNECT that asks it for the server, credentials included."""


def proxy_address(proxy: str, url: Url, *, secure: bool) -> ProxyAddress:
    """Read the URL of a proxy by which ``url`` is to be reached. ValueError, without the URL's secrets: it is none."""
    from websockets.exceptions import InvalidProxy
    from websockets.proxy import parse_proxy, prepare_connect_request

    try:
        parsed = parse_proxy(proxy)
        explicit = urlsplit(proxy).port
    except InvalidProxy as error:
        raise ValueError(error.msg) from None
    except UnicodeDecodeError:
        raise ValueError("what its user and password stand for (%..) is not UTF-8") from None
    except ValueError:
        raise ValueError("its port or its host is not valid") from None
    port = _SOCKS_PORT if explicit is None and parsed.scheme.startswith("socks") else parsed.port
    at = Url(parsed.scheme, parsed.host, port)
    try:
        wire_host(at)
    except UnicodeError:
        raise ValueError("its host is not valid") from None
    request = prepare_connect_request(parsed, _websocket_uri(url, secure=secure))
    return ProxyAddress(at, parsed.username, parsed.password, request)
