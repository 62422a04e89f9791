"""Every error that EchoStream raises, in one tree.

::

    EchoStreamError
      ConfigError (key)                         a setting is wrong: the message names the key and the fix
      PluginError (code, plugin, fix)           a plugin cannot be used
        PluginNotFound       E-NO-PROVIDER        nobody offers this scheme, codec, …
        PluginConflict       E-AMBIGUOUS          two distributions offer the same key
        PluginIncompatible   E-INCOMPATIBLE       written for another version of the kernel
        PluginImportFailed   E-IMPORT             its module raised while it was imported
        PluginMissingDependency  E-MISSING-DEP    a library that it requires is not installed
        PluginIndexMismatch  E-INDEX              its entry points promise what its hooks do not give
        PluginContractError  E-HOOK               a misspelt hook, or a hook that raised or answered nonsense
      ProtocolError
        LocalProtocolError                      our own call was illegal
        RemoteProtocolError (close_code)        the peer broke the rules: the session ends
      TransportError
        ConnectFailed                           nothing was established
        ConnectionLost                          broken by the network
        EndOfStream                             ended by the peer, in order
        ResourceClosed                          closed by us
        ResourceBusy                            used by two at once
        StreamReset (code)                      the peer gave up one substream
        CapabilityError (capability)            this connection cannot do that
      CodecError
        EncodeError (path)                      a value that the codec cannot carry
        DecodeError (offset)                    bytes that are not in the codec's format
      RpcError (code, message, details, retryable, not_processed)
        RemoteError                             the peer answered with this status
        DeadlineExceeded                        also a TimeoutError
        Disconnected                            also a ConnectionLost: the session ended under a call
        CallError                               our side failed the call: not sent, or its answer unusable
          LimitExceeded (limit, value, maximum) a local limit, named

Facts are attributes; messages name the next step; causes are chained; cancellation is never one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

__all__ = [
    "CallError",
    "CapabilityError",
    "CloseCode",
    "CodecError",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "DeadlineExceeded",
    "DecodeError",
    "Disconnected",
    "EchoStreamError",
    "EncodeError",
    "EndOfStream",
    "LimitExceeded",
    "LocalProtocolError",
    "PluginConflict",
    "PluginContractError",
    "PluginError",
    "PluginImportFailed",
    "PluginIncompatible",
    "PluginIndexMismatch",
    "PluginMissingDependency",
    "PluginNotFound",
    "ProtocolError",
    "RemoteError",
    "RemoteProtocolError",
    "ResourceBusy",
    "ResourceClosed",
    "RpcError",
    "StatusCode",
    "StreamReset",
    "TransportError",
]


class StatusCode(IntEnum):
    """The outcome of a call: gRPC's sixteen codes and OK, with gRPC's numbers.

    Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CloseCode(IntEnum):
    """Why a connection or a substream was ended, as it stands on the wire (32 bits). Source: docs/wire.md section 9."""

    OK = 0
    """An orderly close."""
    INTERNAL = 1
    """The closing side failed."""
    PROTOCOL = 2
    """The peer broke the rules of the wire protocol."""
    LIMIT = 3
    """The peer went over a limit that it had been told of."""
    TIMEOUT = 4
    """SETUP, a PONG or any life sign did not come in time."""
    UNAUTHENTICATED = 5
    """The authenticator refused the credentials."""
    GOING_AWAY = 6
    """The endpoint is shutting down."""
    CANCELLED = 7
    """Substreams only: the caller or reader gave up."""
    REFUSED = 8
    """Substreams only: not processed, may be tried again."""
    VERSION = 9
    """The peer speaks another major version, or another protocol, or lacks a capability that is required."""
    SLOW = 10
    """The peer did not keep up with events that it subscribed to with the policy ``disconnect``."""


class EchoStreamError(Exception):
    """The root of all errors that EchoStream raises. Each can be copied and pickled, facts included."""

    def __reduce__(self) -> tuple[object, ...]:
        """The constructors take facts, not ``args``: a copy is made without them."""
        return _again, (type(self), self.args, vars(self))


def _again(cls: type[EchoStreamError], args: tuple[object, ...], facts: dict[str, object]) -> EchoStreamError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ConfigError(EchoStreamError):
    """A setting is wrong.

    ``key`` is the dotted path of the setting (``server.public.listen``), or "" when it is not about one key.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class PluginError(EchoStreamError):
    """A plugin cannot be used; ``code`` is stable (``E-…``), ``fix`` is what the reader can do about it."""

    code = "E-PLUGIN"

    def __init__(self, message: str, *, plugin: str = "", fix: str = "") -> None:
        text = f"{self.code}: {message}"
        super().__init__(f"{text}. {fix}" if fix else text)
        self.plugin = plugin
        self.fix = fix
        self.problem = message


class PluginNotFound(PluginError):
    """Nobody offers what was asked for (E-NO-PROVIDER).

    ``kind`` is ``transport``, ``codec``, …; ``name`` what was asked; ``known`` all names that are installed;
    ``closest`` the most similar of them or None.
    """

    code = "E-NO-PROVIDER"

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        name: str = "",
        known: Sequence[str] = (),
        closest: str | None = None,
        fix: str = "",
    ) -> None:
        super().__init__(message, fix=fix)
        self.kind = kind
        self.name = name
        self.known = tuple(known)
        self.closest = closest


class PluginConflict(PluginError):
    """Two distributions offer the same key and nothing says which one to prefer (E-AMBIGUOUS)."""

    code = "E-AMBIGUOUS"


class PluginIncompatible(PluginError):
    """The plugin was written for another version of the kernel (E-INCOMPATIBLE). Found before it is imported."""

    code = "E-INCOMPATIBLE"


class PluginImportFailed(PluginError):
    """The plugin's module raised while it was imported (E-IMPORT); the cause is chained."""

    code = "E-IMPORT"


class PluginMissingDependency(PluginError):
    """The plugin requires a library that is not installed (E-MISSING-DEP). Found before it is imported."""

    code = "E-MISSING-DEP"


class PluginIndexMismatch(PluginError):
    """The plugin's entry points promise a key that its hooks do not provide (E-INDEX)."""

    code = "E-INDEX"


class PluginContractError(PluginError):
    """The plugin breaks the hook contract: a misspelt hook, a hook that raised or answered nonsense (E-HOOK)."""

    code = "E-HOOK"


class ProtocolError(EchoStreamError):
    """The wire protocol was broken, by us or by the peer."""


class LocalProtocolError(ProtocolError):
    """Our own call was illegal in this state; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules; ``close_code`` is what it is told when the connection is closed."""

    def __init__(self, message: str, *, close_code: CloseCode = CloseCode.PROTOCOL) -> None:
        super().__init__(message)
        self.close_code = close_code


class TransportError(EchoStreamError):
    """A connection or a substream failed."""


class ConnectFailed(TransportError):
    """No connection came about; the message says to whom and why, the cause is chained."""


class ConnectionLost(TransportError):
    """An established connection is gone without an orderly close; ``close_code`` is the peer's code, if it gave one."""

    close_code: int | None = None


class EndOfStream(TransportError):
    """The peer has finished, in order: there is nothing more to read."""


class ResourceClosed(TransportError):
    """We have closed this connection, substream or stream ourselves."""


class ResourceBusy(TransportError):
    """Another task is already using this end in the same direction."""


class StreamReset(TransportError):
    """The peer gave up this substream; ``code`` is its 32-bit reason, see :class:`CloseCode`."""

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class CapabilityError(TransportError):
    """This connection cannot do what was asked; ``capability`` names the missing field of ``Capabilities``."""

    def __init__(self, message: str, *, capability: str = "") -> None:
        super().__init__(message)
        self.capability = capability


class CodecError(EchoStreamError):
    """A value could not be turned into bytes or back."""


class EncodeError(CodecError):
    """A value that the codec cannot carry; ``path`` says where it is (``$.items[3]``), "" when unknown."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class DecodeError(CodecError):
    """Bytes that are not in the codec's format or over its limits; ``offset`` is in bytes, None when unknown."""

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class RpcError(EchoStreamError):
    """The outcome of a call that did not succeed. A handler may raise it to choose the caller's status.

    ``details`` is a sequence of ``(type name, value)`` pairs; values are plain data that the codec can carry.
    ``retryable`` says that the same call may succeed later; ``not_processed`` that the handler never ran.
    ``retry_after`` is in seconds, 0.0 when the answer gave none.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str = "",
        *,
        details: Sequence[tuple[str, object]] = (),
        retryable: bool = False,
        not_processed: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.retryable = retryable
        self.not_processed = not_processed
        self.retry_after = retry_after

    def __str__(self) -> str:
        """``CODE_NAME: message``, and the names of typed details."""
        text = f"{self.code.name}: {self.message}" if self.message else self.code.name
        if self.details:
            text += f" [{', '.join(name for name, _ in self.details)}]"
        return text


class RemoteError(RpcError):
    """The peer answered a call with this status."""


class DeadlineExceeded(RpcError, TimeoutError):
    """A call did not finish within its timeout; here, or at the peer."""

    def __init__(
        self,
        message: str = "",
        *,
        details: Sequence[tuple[str, object]] = (),
        not_processed: bool = False,
    ) -> None:
        super().__init__(
            StatusCode.DEADLINE_EXCEEDED,
            message,
            details=details,
            retryable=False,
            not_processed=not_processed,
        )


class Disconnected(RpcError, ConnectionLost):
    """The session ended while a call was waiting for its answer, or before it could be sent.

    ``not_processed`` is True only when the call is known never to have reached a handler.
    """

    def __init__(self, message: str = "", *, not_processed: bool = False, close_code: int | None = None) -> None:
        super().__init__(StatusCode.UNAVAILABLE, message, retryable=not_processed, not_processed=not_processed)
        self.close_code = close_code


class CallError(RpcError):
    """A call of ours failed on our side: it could not be sent as it was, or its answer could not be used.

    A handler that lets one pass answers INTERNAL: what was wrong is its own nested call, not the call that it serves.
    """


class LimitExceeded(CallError):
    """A local limit stopped this; ``limit`` is its name in ``wire/limits.py``. Usually nothing was sent."""

    def __init__(self, message: str, *, limit: str, value: int, maximum: int, not_processed: bool = True) -> None:
        super().__init__(StatusCode.RESOURCE_EXHAUSTED, message, not_processed=not_processed)
        self.limit = limit
        self.value = value
        self.maximum = maximum
