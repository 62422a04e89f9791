"""What a client was told in code: its settings, and the URLs to dial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from echostream_core.dialing import Candidates, check_credentials, fixed
from echostream_core.engine.endpoint import EndpointSettings, make_limits
from echostream_core.kernel import Kernel, default_kernel
from echostream_core.wire.limits import Limits

if TYPE_CHECKING:
    from echostream_core.codec import Codec
    from echostream_core.compression import Compression
    from echostream_core.middleware import Middleware

__all__ = ["ClientKeywords", "client_settings", "listed_candidates"]


class ClientKeywords(TypedDict, total=False):
    """The keywords of ``RpcClient.connect`` that ``RpcClient.discover`` takes as well."""

    codecs: Sequence[str | Codec]
    compression: Sequence[str | Compression]
    tls: Mapping[str, object] | None
    transport: Mapping[str, Mapping[str, object]] | None
    middleware: Sequence[str | Middleware]
    limits: Mapping[str, float] | Limits | None
    require: Sequence[str]
    emulate_datagrams: bool
    credentials: Mapping[str, str] | None
    name: str
    kernel: Kernel | None


def client_settings(keywords: ClientKeywords) -> EndpointSettings:
    """A client's settings from what was passed in code; None stands for the default."""
    given = dict(keywords)
    kernel = given.pop("kernel", None) or default_kernel()
    limits = make_limits(keywords.get("limits"))
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None and key != "limits"}
    return EndpointSettings(**{**chosen, "kernel": kernel, "side": "client", "limits": limits})


def listed_candidates(settings: EndpointSettings, urls: Sequence[str], insecure_credentials: bool) -> Candidates:
    """The URLs that the user has given; ConfigError where credentials would travel in the clear."""
    targets = settings.targets(urls)
    if not insecure_credentials:
        for target in targets:
            check_credentials(settings, target)
    return fixed(targets)
