"""From addresses to a session: candidates are dialled one after the other until one works."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from echostream_core.engine.endpoint import EndpointSettings, Target
from echostream_core.errors import ConfigError, ConnectFailed, TransportError
from echostream_core.transport import Connection

__all__ = ["Candidates", "Dialer", "check_credentials", "fixed"]

Candidates = Callable[[], AsyncGenerator[Target, None]]
"""Where to dial, best first, asked anew for each session. Asking for the next one means that the last one failed;
ConnectFailed says that there is nothing to dial at all."""

_logger = logging.getLogger("echostream.client")


def fixed(targets: Sequence[Target]) -> Candidates:
    """The same targets each time, in their order."""

    async def candidates() -> AsyncGenerator[Target, None]:
        for target in targets:
            yield target

    return candidates


def check_credentials(settings: EndpointSettings, target: Target) -> None:
    """ConfigError where ``target`` would carry credentials in the clear."""
    if settings.credentials and not target.spec.capabilities.encrypted and not target.spec.capabilities.in_process:
        raise ConfigError(
            f"credentials are not sent over {target.url.scheme}://, which is not encrypted: "
            "use an encrypted transport, or set insecure_credentials = true",
            key="credentials",
        )


class Dialer:
    """Opens the sessions of one client, one at a time."""

    def __init__(
        self, settings: EndpointSettings, candidates: Candidates, connect_timeout: float, *, found: bool = False
    ) -> None:
        """``found``: the candidates are others' words, so that one that makes no sense is passed over like one that
        does not answer; else it is the caller's mistake, a ConfigError.
        """
        self.connect_timeout = connect_timeout
        """Seconds for dialling one URL, handshake included."""
        self.fallbacks = 0
        """How many URLs were tried in vain before one that worked."""
        self.settings = settings
        self._candidates = candidates
        self._found = found

    async def dial(self, begin: Callable[[Connection, str], Awaitable[None]]) -> None:
        """Connect to the first candidate that works and for which ``begin(connection, url)`` raises no TransportError.

        Raises ConnectFailed, or the only candidate's own TransportError, when none works.
        """
        problems: list[TransportError] = []
        async with aclosing(self._candidates()) as candidates:
            async for target in candidates:
                if problems:
                    self.fallbacks += 1
                    _logger.warning("%s; trying %s", problems[-1], target.url)
                try:
                    await begin(await self._connect(target), str(target.url))
                except TransportError as error:
                    problems.append(error)
                else:
                    return
        if len(problems) == 1:
            raise problems[0]
        listed = "; ".join(str(problem) for problem in problems)
        raise ConnectFailed(f"none of {len(problems)} URLs worked: {listed}") from problems[-1]

    async def _connect(self, target: Target) -> Connection:
        timeout = min(self.connect_timeout, target.patience_s)
        try:
            async with asyncio.timeout(timeout):
                made = await target.transport.dial(target.url, target.options)
        except TimeoutError as error:
            raise ConnectFailed(f"{target.url} did not answer within {timeout:g} s") from error
        except ConfigError as error:
            if not self._found:
                raise
            raise ConnectFailed(f"{target.url} cannot be dialled: {error}") from error
        connection = self.settings.connection(made)
        try:
            self.settings.check_negotiated(connection, str(target.url))
        except TransportError:
            connection.abort()
            raise
        return connection
