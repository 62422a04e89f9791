"""Addresses: what a listener tells can be dialled, what cannot be used is refused in words of ours."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.transport import Acceptor, Connection, Pipe
from echostream_core.types import Url
from echostream_testkit.checks import needs
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["AddressChecks"]

_FOREIGN_HOST = "203.0.113.1"
"""Of a network for documentation (RFC 5737): no machine has it."""


class AddressChecks(TransportSubject):
    """Listening."""

    @staged
    async def test_addresses_can_be_dialled(self, stage: Stage) -> None:
        """Each of ``Listener.addresses`` is a URL of the scheme, its port resolved, and takes a dial."""
        listener = await stage.listen()
        assert listener.addresses, "the listener tells no address"
        for address in listener.addresses:
            url = Url.parse(address)
            assert url.scheme == self.scheme, f"{address} is not of the scheme {self.scheme}"
            assert url.port != 0, f"{address}: the port is not resolved"
            await stage.connect(address)

    @staged
    async def test_addresses_of_two_listeners_differ(self, stage: Stage) -> None:
        """Port 0 twice, or two names: two addresses, and each dial reaches its own listener."""
        reached: list[int] = []

        def acceptor(number: int) -> Acceptor:
            def accept(made: Connection | Pipe) -> None:
                reached.append(number)
                stage.accept(made)

            return accept

        first, second = await stage.listen(accept=acceptor(1)), await stage.listen(accept=acceptor(2))
        assert first.addresses[0] != second.addresses[0]
        for listener in (first, second, first):
            await stage.connect(listener.addresses[0])
        assert reached == [1, 2, 1], "a dial reached the other listener"

    @staged
    async def test_address_is_free_after_close(self, stage: Stage) -> None:
        """As soon as ``close`` has returned, and the connections have ended, the address can be bound again."""
        address = await stage.nobody_listens()
        for _ in range(3):
            listener = await stage.listen(address)
            assert listener.addresses[0] == address
            near, far = await stage.connect(address)
            near.close()
            await stage.closed(near)
            await stage.closed(far)
            await listener.close()

    @staged
    async def test_address_is_free_while_connections_go_on(self, stage: Stage) -> None:
        """``close`` frees the address at once, also while connections that were accepted go on."""
        pair = await stage.pair()
        await pair.listener.close()
        second = await stage.listen(pair.listener.addresses[0])
        await stage.connect(second.addresses[0])
        assert not (pair.near.closed or pair.far.closed)

    @staged
    async def test_address_that_is_no_address_is_a_config_error(self, stage: Stage) -> None:
        """A URL with nothing behind its scheme is ConfigError, to listen at and to dial."""
        transport, nothing = self.transport(), Url(self.scheme)
        attempts = (
            transport.listen(nothing, self.built_options("listen"), stage.accept),
            transport.dial(nothing, self.built_options("dial")),
        )
        for attempt, what in zip(attempts, ("listening at", "dialling"), strict=True):
            await stage.refused(attempt, ConfigError, f"{what} {nothing}")

    @needs("wire")
    @staged
    async def test_address_that_cannot_be_bound_is_connect_failed(self, stage: Stage) -> None:
        """A host that this machine has not, a folder that is not there: ConnectFailed, the cause chained."""
        url = Url.parse(stage.url())
        if url.port is None:
            url = replace(url, path=f"{stage.folder}/missing/socket")
        else:
            url = replace(url, host=_FOREIGN_HOST)
        error = await stage.refused(stage.listen(str(url)), ConnectFailed, f"listening at {url}")
        assert (url.host or url.path) in str(error), f"the error does not name the address: {error}"
        assert error.__cause__ is not None, "the system's error is not chained as the cause"

    @staged
    async def test_connections_know_both_addresses(self, stage: Stage) -> None:
        """``local_address`` and ``peer_address`` are URLs of the scheme; the dialer's peer is the listener."""
        pair = await stage.pair()
        for end in pair.ends:
            for address in (end.connection.local_address, end.connection.peer_address):
                assert Url.parse(address).scheme == self.scheme, f"{address} is no URL of the scheme {self.scheme}"
        dialled, listening = pair.near.connection.peer_address, pair.listener.addresses[0]
        assert Url.parse(dialled) == Url.parse(listening), f"{listening} was dialled, the peer is said to be {dialled}"

    @staged
    async def test_listener_close_is_idempotent(self, stage: Stage) -> None:
        """``close`` may be called again, and at the same time; afterwards nobody is accepted."""
        listener = await stage.listen()
        await asyncio.gather(listener.close(), listener.close())
        await listener.close()
        await stage.refused(stage.dial(listener.addresses[0]), ConnectFailed, "dialling a closed listener")
