"""One event to chosen sessions, and the callback that says that a client is connected again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from echostream_core import ConfigError, Disconnected, Event, Reconnect, RpcClient, RpcServer, emit_to
from tests.support.pairs import connected, memory_url
from tests.support.waiting import settle, until

LOOPS = ("virtual",)


def recorder(heard: list[object]) -> Callable[[Event], None]:
    """A callback that keeps the payloads."""

    def keep(event: Event) -> None:
        heard.append(event.payload)

    return keep


async def test_an_event_goes_to_the_chosen_sessions_that_want_it() -> None:
    heard: dict[str, list[object]] = {"one": [], "two": [], "three": []}
    async with RpcServer(url := memory_url(), drain_timeout=0) as server:
        clients = {name: await RpcClient.connect(url) for name in heard}
        for name, client in clients.items():
            topic = "other" if name == "two" else "news"

            await client.on(topic, recorder(heard[name]))
        emitted = emit_to(server.sessions, "news", 1)
        assert (emitted.count, emitted.behind, emitted.failed) == (2, {}, {})
        emitted = emit_to(server.sessions[:1], "news", 2)
        assert emitted.count == 1
        await settle()
        assert sorted(map(tuple, heard.values())) == [(), (1,), (1, 2)]
        with pytest.raises(ConfigError, match="no topic"):
            emit_to(server.sessions, "a b")
        gone = server.sessions[0]
        for client in clients.values():
            await client.close()
        await until(lambda: not server.sessions)
        assert emit_to([gone], "news", 3).count == 0


async def test_who_blocks_and_does_not_read_is_named_and_can_be_waited_for() -> None:
    async with connected() as pair, pair.client.subscribe("news", max_queue=2) as events:
        await pair.ready()
        far = pair.far
        number = 0
        while not (emitted := emit_to([far], "news", number)).behind:
            number += 1
            await settle(2)
        assert list(emitted.behind) == [far]
        for expected in range(number + 1):
            assert (await events.recv()).payload == expected
        await emitted.behind[far]()
        assert emit_to([far], "news", "again").behind == {}

        while not (emitted := emit_to([far], "news", number)).behind:
            await settle(2)
        waiting = asyncio.create_task(emitted.behind[far]())
        await settle()
        far.abort()
        with pytest.raises(Disconnected):
            await waiting


async def test_what_a_peer_cannot_take_is_told_and_does_not_stop_the_others() -> None:
    async with RpcServer(url := memory_url(), drain_timeout=0) as server:
        heard: list[object] = []
        async with (
            RpcClient.connect(url, limits={"max_message_bytes": 2_000, "inline_max_bytes": 1_000}) as small,
            RpcClient.connect(url) as large,
        ):
            await small.on("news", lambda event: heard.append("small"))
            await large.on("news", lambda event: heard.append("large"))
            emitted = emit_to(server.sessions, "news", "x" * 3_000)
            assert len(emitted.failed) == 1
            assert "max_message_bytes" in str(*emitted.failed.values())
            await settle()
            assert heard == ["large"]


async def test_a_reconnect_is_told_when_the_subscriptions_are_renewed(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        RpcServer(url := memory_url(), drain_timeout=0) as server,
        RpcClient.connect(url, reconnect=Reconnect(initial_delay=0.1)) as client,
    ):
        told: list[int] = []

        def broken() -> None:
            raise ValueError("as planned")

        client.on_reconnect(broken)
        forget = client.on_reconnect(lambda: told.append(emit_to(server.sessions, "news").count))
        await client.on("news", lambda event: None)
        server.sessions[0].abort()
        await until(lambda: client.reconnects == 1 and told)
        assert told == [1]
        forget()
        forget()
        server.sessions[0].abort()
        await until(lambda: client.reconnects == 2 and client.connected)
        assert told == [1]
        assert sum("on_reconnect" in record.message for record in caplog.records) >= 1
