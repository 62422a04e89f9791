"""The border: what the system calls its errors, in words of EchoStream. What OpenSSL says is in ``_tls_errors.py``."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import TypeVar

from echostream_core.errors import ConfigError, ConnectFailed, ConnectionLost, EchoStreamError
from echostream_core.types import Url

__all__ = ["bind_failed", "caused_by", "connect_failed", "connection_lost", "name_not_found", "reason_of"]

_E = TypeVar("_E", bound=EchoStreamError)


def caused_by(error: _E, cause: BaseException | None) -> _E:
    """``error`` with its cause chained, for where it is handed on and not raised."""
    error.__cause__ = cause
    return error


def reason_of(error: BaseException) -> str:
    """What ``error`` says, without number and brackets."""
    if isinstance(error, ConnectionResetError):
        return "the peer has reset it"
    if isinstance(error, BrokenPipeError):
        return "the peer no longer reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


def connection_lost(peer_address: str, cause: Exception | None) -> EchoStreamError:
    """The error for a connection that ended without our doing and without the peer's end."""
    if isinstance(cause, EchoStreamError):
        return cause
    reason = reason_of(cause) if cause is not None else "it was cut off"
    return caused_by(ConnectionLost(f"the connection to {peer_address} is lost: {reason}"), cause)


def name_not_found(url: Url, cause: Exception) -> ConnectFailed:
    """The error for a host name that has no address."""
    if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN:
        text = f"{url}: the name {url.host!r} cannot be looked up now: the name server does not answer"
    else:
        text = f"{url}: the name {url.host!r} is not known; is it spelt right?"
    return caused_by(ConnectFailed(text), cause)


def connect_failed(url: Url, causes: Sequence[OSError]) -> ConnectFailed:
    """The error for a dial that reached none of the host's addresses; ``causes`` has one error each."""
    codes = {cause.errno for cause in causes}
    cause = causes[0]
    if codes == {errno.ECONNREFUSED}:
        text = f"nobody listens at {url}; is the server started?"
    elif url.scheme == "unix" and codes == {errno.ENOENT}:
        text = f"nobody listens at {url}: there is no such socket; is the server started?"
    elif url.scheme == "unix" and codes <= {errno.EACCES, errno.EPERM}:
        text = f"{url}: this user may not connect; the listener's option transport.unix.mode says who may"
    elif url.scheme == "unix" and codes <= {errno.EPROTOTYPE, errno.ENOTSOCK}:
        text = f"{url} is not a stream socket"
    elif codes <= {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}:
        text = f"{url} cannot be reached: there is no route to it ({reason_of(cause)})"
    elif codes == {errno.ETIMEDOUT}:
        text = f"{url} cannot be reached: it does not answer; a firewall between, or a wrong address?"
    else:
        text = f"cannot connect to {url}: {'; '.join(dict.fromkeys(map(reason_of, causes)))}"
    return caused_by(ConnectFailed(text), cause)


def bind_failed(url: Url, cause: OSError) -> ConnectFailed:
    """The error for an address that cannot be listened at."""
    code = cause.errno
    if code == errno.EADDRINUSE:
        why = "the address is in use; stop the program that has it"
        if url.scheme != "unix":
            why += f" (ss -ltnp 'sport = {url.port}' shows it), or choose another port, 0 for any free one"
    elif code == errno.EADDRNOTAVAIL:
        why = f"this machine has no address {url.host}; 0.0.0.0 stands for all of its own"
    elif code in (errno.EACCES, errno.EPERM) and url.scheme == "unix":
        why = "this user may not write to that folder"
    elif code in (errno.EACCES, errno.EPERM):
        why = f"this user may not open port {url.port}; ports from 1024 on need no privileges"
    elif code in (errno.ENOENT, errno.ENOTDIR) and url.scheme == "unix":
        why = f"there is no folder {url.path.rpartition('/')[0] or '/'}; make it first"
    else:
        why = reason_of(cause)
    return caused_by(ConnectFailed(f"cannot listen at {url}: {why}"), cause)


def check_network_url(url: Url, *, dialing: bool) -> None:
    """ConfigError unless ``url`` is of the form scheme://host:port."""
    if url.path not in ("", "/"):
        raise ConfigError(f"{url}: a {url.scheme} address has no path; write {url.scheme}://host:port")
    if url.port is None:
        raise ConfigError(f"{url} has no port; write {url.scheme}://{url.host or 'host'}:port")
    if dialing and not url.host:
        raise ConfigError(f"{url} has no host to connect to; write {url.scheme}://host:{url.port}")
    if dialing and not url.port:
        raise ConfigError(f"{url}: port 0 is for listeners only; write the port that the server told")


MAX_UNIX_PATH_BYTES = 107
"""The system's limit for the path of a socket (108 bytes with the closing zero; fewer on some)."""


def check_unix_url(url: Url) -> None:
    """ConfigError unless ``url`` is of the form unix:///absolute/path."""
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"{url}: this system has no Unix sockets; use tcp://127.0.0.1:port")
    if url.host or url.port is not None:
        raise ConfigError(f"{url}: write unix:// and the absolute path, three slashes in all: unix:///run/my.sock")
    if not url.path.startswith("/") or url.path.endswith("/") or "\0" in url.path:
        raise ConfigError(f"{str(url)!r}: the path of a socket is missing; write unix:///run/my.sock")
    size = len(url.path.encode("utf-8", "surrogateescape"))
    if size > MAX_UNIX_PATH_BYTES:
        raise ConfigError(f"{url}: the path has {size} bytes; the system takes {MAX_UNIX_PATH_BYTES} for a socket")
