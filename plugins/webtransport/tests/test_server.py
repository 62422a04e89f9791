"""Who may open a session: origins, authorization, paths; and a browser's refusal in the listener's words."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, cast

import msgspec
import pytest

from echostream_core.errors import CloseCode, ConfigError, ConnectFailed, ConnectionLost
from echostream_core.types import Url
from echostream_quic.connection import QuicConnection
from echostream_webtransport.codes import H3
from echostream_webtransport.server import MAX_REQUESTS, ServerDialect, is_admitted
from echostream_webtransport.transport import SPEC
from plugins.quic.tests.recording import LogLines, Recorder
from plugins.webtransport.tests.sessions import connect, dial, end, options, serve
from plugins.webtransport.tests.stock import stock_client


@pytest.mark.parametrize(
    ("origin", "origins", "admitted"),
    [
        (None, (), True),
        (None, ("https://app.example",), True),
        ("https://here.example", (), True),
        ("https://here.example:8443", (), True),
        ("http://HERE.example", (), True),
        ("https://other.example", (), False),
        ("https://here.example.evil", (), False),
        ("null", (), False),
        ("", (), False),
        ("https://[", (), False),
        ("https://other.example", ("*",), True),
        ("https://app.example", ("https://app.example",), True),
        ("https://app.example:444", ("https://app.example",), False),
        ("https://here.example", ("https://app.example",), False),
        ("null", ("null",), True),
        ("https://app.example", ("https://App.Example:443",), True),
        ("http://app.example", ("http://app.example:80",), True),
        ("https://app.example", ("https://app.example:80",), False),
        ("https://app.example", ("http://app.example",), False),
    ],
)
def test_a_page_may_open_a_session_from_its_own_host_or_from_where_it_is_named(
    origin: str | None, origins: tuple[str, ...], admitted: bool
) -> None:
    assert is_admitted(origin, "here.example:4433", origins) is admitted


async def test_an_origin_that_is_not_admitted_is_refused_and_the_dialer_says_where_to_look() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack, origins=["https://app.example"])
        with pytest.raises(ConnectFailed, match=r"HTTP status 403: .* see its setting origins"):
            await dial(server.url, origin="https://evil.example")
        for given in ({"origin": "https://app.example"}, {}):
            recorder = Recorder(await dial(server.url, **given)).start()
            stack.push_async_callback(end, recorder)
        assert len(server.accepted) == 2


async def test_authorization_is_demanded_where_it_is_configured_and_never_shown() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack, authorization="Bearer s3cret")
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "bearer s3cret"}):
            with pytest.raises(ConnectFailed, match=r"HTTP status 401: .* set authorization") as error:
                await dial(server.url, **given)
            assert "s3cret" not in str(error.value)
        recorder = Recorder(await dial(server.url, authorization="Bearer s3cret")).start()
        stack.push_async_callback(end, recorder)
        assert "s3cret" not in repr(options(authorization="Bearer s3cret", headers={"x-key": "s3cret"}))


@pytest.mark.parametrize("path", ["/a b", "/ä/ö", "/100%", "/a?b", "/x;y=z"])
async def test_paths_of_all_kinds_are_found_again(path: str) -> None:
    from echostream_webtransport.transport import WebTransportTransport

    async with AsyncExitStack() as stack:
        server = await serve(stack)
        accepted: list[Any] = []
        port = server.address[1]
        url = Url("wt", "127.0.0.1", port, path)
        listener = await WebTransportTransport().listen(url, options(), accepted.append)
        stack.push_async_callback(listener.close)
        recorder = Recorder(await WebTransportTransport().dial(url, options())).start()
        assert recorder.connection.peer_address == str(url)
        accepted_recorder = Recorder(accepted[0]).start()
        assert accepted[0].local_address == str(url)
        await end(recorder, accepted_recorder)


async def test_the_headers_may_be_as_large_as_configured_and_no_larger() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack, max_header_bytes=2_000)
        small = Recorder(await dial(server.url, headers={"x-long": "a" * 1_500})).start()
        stack.push_async_callback(end, small)
        with pytest.raises(ConnectFailed, match=r"HTTP status 431: .*max_header_bytes"):
            await dial(server.url, headers={"x-long": "a" * 1_900})
        with pytest.raises(ConnectFailed, match="H3_EXCESSIVE_LOAD"):
            await dial(server.url, headers={"x-long": "~" * 4_000})


async def test_dialers_may_have_to_prove_their_address() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack, retry=True)
        recorder = Recorder(await dial(server.url)).start()
        await end(recorder)
        assert len(server.accepted) == 1


async def test_no_datagram_goes_out_before_the_answer_is_known_to_have_arrived() -> None:
    """Chromium drops one that comes in the same flight."""
    seen: list[bool] = []

    def prepare(recorder: Recorder) -> None:
        connection = recorder.connection
        assert isinstance(connection, QuicConnection)
        release = connection.release_datagrams

        def released() -> None:
            dialect = connection.dialect
            assert isinstance(dialect, ServerDialect)
            assert dialect._connect is not None
            outgoing = dialect._connect.state.outgoing
            seen.append(not (outgoing.in_flight or outgoing.queued_bytes or outgoing.lost))
            release()

        connection.release_datagrams = released  # type: ignore[method-assign]
        for number in range(3):
            assert connection.send_datagram([b"%d" % number])
        assert not connection.engine.substreams.datagrams.waiting

    async with AsyncExitStack() as stack:
        server = await serve(stack, prepare=prepare)
        recorder = Recorder(await dial(server.url)).start()
        stack.push_async_callback(end, recorder)
        await recorder.until(lambda: len(recorder.datagrams) == 3)
        assert recorder.datagrams == [b"0", b"1", b"2"]
        assert seen == [True]
        (await server.session()).send_datagram(b"at once")
        await recorder.until(lambda: len(recorder.datagrams) == 4)


async def test_a_visitor_that_asks_for_too_many_pages_gets_no_more() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack)
        async with stock_client(server.address) as client:
            streams = {client.request() for _ in range(MAX_REQUESTS + 1)}
            # Which of them is the last to arrive is the network's business.
            await client.until(lambda: len(client.headers) == MAX_REQUESTS and client.resets)
            assert set(client.resets) == streams - set(client.headers)
            assert set(client.resets.values()) == {H3.REQUEST_REJECTED}
        assert server.accepted == []


async def test_a_visitor_without_a_session_is_sent_away_without_a_word_in_the_log(log: LogLines) -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack, handshake_timeout_s=0.3)
        async with stock_client(server.address) as client:
            assert await client.answer(client.request()) == 200
            assert server.listener.unfinished_handshakes == 1
            assert (await client.end())[0] == 0x100
        assert server.listener.unfinished_handshakes == 0
    assert log.lines == []


@pytest.mark.parametrize(
    ("path", "origin", "said"),
    [
        ("/nowhere", "https://app.example", "HTTP status 404: nobody listens at the path /nowhere"),
        ("/session", "https://evil.example", "HTTP status 403: the setting origins does not admit https://evil."),
        ("/session", "https://app.example", "HTTP status 401: its authorization is missing"),
    ],
    ids=["path", "origin", "authorization"],
)
async def test_the_log_says_why_a_session_was_refused(path: str, origin: str, said: str, log: LogLines) -> None:
    """A page is not told."""
    async with AsyncExitStack() as stack:
        server = await serve(stack, origins=["https://app.example"], authorization="Bearer s3cret")
        async with stock_client(server.address) as client:
            lines = (":protocol", "webtransport"), ("origin", origin), ("authorization", "Bearer guess")
            await client.answer(client.request(*lines, end=False, method="CONNECT", path=path))
        (line,) = await log.wait()
        assert said in line
        assert "s3cret" not in line
        assert "guess" not in line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"origins": ["app.example"]}, "origins: write scheme://host:port"),
        ({"origins": ["https://app.example/path"]}, "origins: write"),
        ({"origin": "app.example"}, "origin: write"),
        ({"authorization": "two\nlines"}, "one line of printable ASCII"),
        ({"authorization": " x"}, "one line of printable ASCII"),
        ({"headers": {"a b": "x"}}, "cannot be the name of a header"),
        ({"headers": {"Authorization": "x"}}, "set the option authorization"),
        ({"headers": {"Origin": "x"}}, "set the option origin"),
        ({"headers": {"Host": "x"}}, "not for you to set"),
        ({"headers": {"x": "a\r\nb"}}, "one line of printable ASCII"),
    ],
)
def test_options_that_could_not_be_sent_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        options(**given)


@pytest.mark.parametrize(
    ("key", "value"), [("max_header_bytes", 1_023), ("max_held_streams", 0), ("max_streams", 3), ("idle_timeout_s", 0)]
)
def test_options_out_of_range_are_refused_by_name(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=key) as error:
        SPEC.factory().configured(options(**{key: value}), SPEC.capabilities)
    assert error.value.key == key


async def test_a_url_without_a_port_or_host_says_what_to_write() -> None:
    transport = SPEC.factory()
    with pytest.raises(ConfigError, match="has no port: write wt://here:4433/path"):
        await transport.listen(Url.parse("wt://here/path"), options(), lambda connection: None)
    with pytest.raises(ConfigError, match="has no port"):
        await transport.dial(Url.parse("wt://here"), options())
    with pytest.raises(ConfigError, match="has no host to connect to: write wt://HOST:4433/path"):
        await transport.dial(Url.parse("wt://:4433/path"), options())


async def test_a_close_of_which_only_quics_good_bye_arrives_is_no_orderly_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack)
        link = cast("Any", ends.far.connection)._link
        monkeypatch.setattr(link, "send", lambda datagrams: None)  # the network loses WebTransport's own
        ends.far.close(6, "shutting down")
        await asyncio.sleep(0.05)
        monkeypatch.undo()
        ends.far.abort()
        error = await ends.near.ended()
        assert isinstance(error, ConnectionLost)
        assert error.close_code == CloseCode.INTERNAL
