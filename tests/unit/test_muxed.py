"""A muxed connection over a fake pipe: when it writes, what it says to strangers, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import pytest

from echostream_core.capabilities import Capabilities
from echostream_core.engine.muxed import LINGER_S, MuxedConnection
from echostream_core.errors import (
    CapabilityError,
    CloseCode,
    ConnectionLost,
    EchoStreamError,
    EndOfStream,
    RemoteProtocolError,
    ResourceClosed,
)
from echostream_core.transport import Pipe, PipeReceiver, Substream, SubstreamReceiver
from echostream_core.types import Buffer, Priority
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES, Limits
from echostream_core.wire.mux_frames import (
    CLOSE,
    PREAMBLE,
    Role,
    encode_close,
    encode_data,
    encode_reset,
)
from tests.unit.wire.mux_recorder import frames

turn = asyncio.sleep


class FakePipe(Pipe):
    """A pipe that keeps what it is given. ``on_closed`` comes when the test says so."""

    def __init__(self, *, negotiated: bool = False) -> None:
        self.capabilities = Capabilities(streams="muxed", encrypted=True, peer_identity=True)
        self.local_address = "fake://here"
        self.peer_address = "fake://there"
        self.peer_identity = "CN=there"
        self.negotiated = negotiated
        self.receiver: PipeReceiver | None = None
        self.writes: list[list[Buffer]] = []
        self.room = True
        self.log: list[str] = []

    def start(self, receiver: PipeReceiver) -> None:
        self.receiver = receiver

    def write(self, buffers: Sequence[Buffer]) -> bool:
        self.writes.append(list(buffers))
        return self.room

    def pause(self) -> None:
        self.log.append("pause")

    def resume(self) -> None:
        self.log.append("resume")

    def close(self) -> None:
        self.log.append("close")

    def abort(self) -> None:
        self.log.append("abort")

    @property
    def written(self) -> bytes:
        return b"".join(b"".join(write) for write in self.writes)

    def feed(self, data: bytes) -> None:
        assert self.receiver is not None
        self.receiver.on_data(data)

    def make_room(self) -> None:
        assert self.receiver is not None
        self.room = True
        self.receiver.on_writable()

    def end(self, error: EchoStreamError | None) -> None:
        assert self.receiver is not None
        self.receiver.on_closed(error)


class User(SubstreamReceiver):
    """The session above, and the receiver of all its substreams: it logs."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.substreams: list[Substream] = []
        self.closed: list[EchoStreamError | None] = []
        self.react: Callable[[], object] = lambda: None

    def on_substream(self, substream: Substream) -> SubstreamReceiver:
        self.substreams.append(substream)
        return self

    def on_datagram(self, data: Buffer) -> None:
        raise AssertionError

    def on_closed(self, error: EchoStreamError | None) -> None:
        self.closed.append(error)

    def on_data(self, data: Buffer) -> None:
        self.events.append(bytes(data))
        self.react()

    def on_end(self) -> None:
        self.events.append("end")

    def on_reset(self, code: int) -> None:
        self.events.append(("reset", code))

    def on_stop(self, code: int) -> None:
        self.events.append(("stop", code))

    def on_writable(self) -> None:
        self.events.append("writable")
        self.react()


class Ends:
    """A connection between a fake pipe and a user."""

    def __init__(self, role: Role = "dialer", *, negotiated: bool = True, limits: Limits | None = None) -> None:
        self.pipe = FakePipe(negotiated=negotiated)
        self.connection = MuxedConnection(self.pipe, role, limits=limits or Limits())
        self.user = User()
        self.connection.start(self.user)

    def open(self, priority: Priority = Priority.NORMAL) -> Substream:
        stream = self.connection.open_substream(priority)
        stream.start(self.user)
        return stream

    def use_all_again(self) -> None:
        """Use every substream after the end: nothing may come of it."""
        for stream in self.user.substreams:
            stream.write([bytes(100_000)])
            stream.stop(1)
            stream.reset(1)

    @property
    def error(self) -> EchoStreamError:
        """The one error that the user was told."""
        (error,) = self.user.closed
        assert error is not None
        return error


# What it is.


async def test_capabilities_are_the_pipes_and_what_the_mux_adds() -> None:
    connection = Ends().connection
    assert connection.capabilities == Capabilities(
        streams="muxed",
        reset=True,
        half_close=True,
        flow_control=True,
        priorities=True,
        encrypted=True,
        peer_identity=True,
    )
    assert (connection.local_address, connection.peer_address) == ("fake://here", "fake://there")
    assert connection.peer_identity == "CN=there"
    assert isinstance(connection.open_substream(), Substream)


async def test_there_are_no_datagrams() -> None:
    connection = Ends().connection
    assert connection.max_datagram_size() == 0
    with pytest.raises(CapabilityError):
        connection.send_datagram([b"x"])


# Writing.


async def test_small_writes_of_a_turn_become_one_and_leave_at_its_end() -> None:
    ends = Ends()
    control = ends.open(Priority.CONTROL)
    for _ in range(10):
        control.write([b"abc", b"def"])
    assert ends.pipe.writes == []
    await turn(0)
    assert len(ends.pipe.writes) == 1
    assert ends.pipe.written == encode_data(0, b"abcdef" * 10, opens=True)
    await turn(0)
    assert len(ends.pipe.writes) == 1


async def test_what_is_written_while_receiving_leaves_when_that_is_handled() -> None:
    ends = Ends("listener")
    ends.user.react = lambda: ends.user.substreams[0].write([b"pong"])
    ends.pipe.feed(encode_data(0, b"ping", opens=True) + encode_data(0, b"ping"))
    assert ends.pipe.written == encode_data(0, b"pongpong")
    await turn(0)
    assert len(ends.pipe.writes) == 1


async def test_a_flush_sends_in_the_same_turn_and_in_one_write() -> None:
    ends = Ends()
    control = ends.open(Priority.CONTROL)
    control.write([b"abc"])
    control.write([b"def"])
    ends.connection.flush()
    ends.connection.flush()
    assert ends.pipe.written == encode_data(0, b"abcdef", opens=True)
    await turn(0)
    assert len(ends.pipe.writes) == 1


async def test_a_flush_does_not_overfill_a_full_pipe_nor_break_into_what_is_being_received() -> None:
    ends = Ends("listener")

    def react() -> None:
        ends.user.substreams[0].write([b"pong"])
        ends.connection.flush()

    ends.user.react = react
    ends.pipe.feed(encode_data(0, b"ping", opens=True) + encode_data(0, b"ping"))
    assert ends.pipe.written == encode_data(0, b"pongpong")
    ends.pipe.room = False
    for _ in range(3):
        react()
    assert len(ends.pipe.writes) == 2


async def test_a_large_write_leaves_at_once_and_behind_what_was_queued() -> None:
    ends = Ends()
    control = ends.open(Priority.CONTROL)
    big = bytes(10_000)
    control.write([b"small"])
    control.write([b"head", big])
    (write,) = ends.pipe.writes
    assert write[-1] is big
    assert ends.pipe.written == encode_data(0, b"small" + b"head" + big, opens=True)


async def test_nothing_is_written_before_start() -> None:
    pipe = FakePipe(negotiated=True)
    connection = MuxedConnection(pipe, "dialer", limits=Limits())
    user = User()
    stream = connection.open_substream()
    stream.start(user)
    stream.write([bytes(10_000)])
    await turn(0)
    assert pipe.writes == []
    connection.start(user)
    await turn(0)
    assert pipe.written == encode_data(2, bytes(10_000), opens=True)


async def test_a_full_pipe_gets_no_more_until_it_has_room() -> None:
    ends = Ends()
    ends.pipe.room = False
    control, data = ends.open(Priority.CONTROL), ends.open()
    data.write([bytes(60_000)])
    assert len(ends.pipe.writes) == 1
    data.write([bytes(5_000)])
    for _ in range(10):
        control.write([bytes(100_000)])
    await turn(0)
    assert len(ends.pipe.writes) == 1
    ends.pipe.make_room()
    numbers = [number for _, number, _ in frames(ends.pipe.written)]
    assert numbers == [2, *[0] * 16, 2], "what waited here could still be overtaken"


async def test_little_is_given_ahead() -> None:
    ends = Ends()
    ends.pipe.room = False
    ends.open(Priority.CONTROL).write([bytes(10_000_000)])
    await turn(0)
    assert 64_000 <= len(ends.pipe.written) <= 128 * 1024


async def test_a_writer_waits_above_the_high_mark_and_is_woken_on_a_later_turn() -> None:
    ends = Ends()
    ends.pipe.room = False
    stream = ends.open(Priority.CONTROL)
    assert not stream.write([bytes(200_000)])
    ends.pipe.make_room()
    assert ends.user.events == []
    await turn(0)
    assert ends.user.events == ["writable"]
    assert stream.write([b"x"])


async def test_a_large_write_never_calls_back_before_it_returns() -> None:
    ends = Ends()
    assert ends.open().write([bytes(INITIAL_WINDOW_BYTES)])
    stream = ends.open(Priority.CONTROL)
    stream.write([bytes(200_000)])
    assert ends.user.events == []
    await turn(0)
    assert ends.user.events == []


async def test_callbacks_run_in_the_connections_context_and_not_in_the_writers() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="connection")
    ends = Ends()
    seen = []
    ends.user.react = lambda: seen.append(variable.get())
    ends.pipe.room = False
    stream = ends.open(Priority.CONTROL)

    async def writer() -> None:
        variable.set("writer")
        stream.write([bytes(200_000)])

    await asyncio.create_task(writer())
    ends.pipe.make_room()
    await turn(0)
    assert seen == ["connection"]


# The beginning.


async def test_a_dialer_begins_with_the_preamble_and_does_not_wait() -> None:
    ends = Ends(negotiated=False)
    ends.open(Priority.CONTROL).write([b"setup"])
    await turn(0)
    assert ends.pipe.written == PREAMBLE + encode_data(0, b"setup", opens=True)
    ends.pipe.feed(PREAMBLE + encode_data(0, b"hello"))
    assert ends.user.events == [b"hello"]


async def test_a_dialer_with_nothing_to_say_says_its_preamble() -> None:
    ends = Ends(negotiated=False)
    await turn(0)
    assert ends.pipe.written == PREAMBLE


async def test_a_listener_is_silent_until_the_dialer_has_spoken() -> None:
    ends = Ends("listener", negotiated=False)
    ends.open().write([bytes(10_000)])
    await turn(0)
    assert ends.pipe.written == b""
    for byte in PREAMBLE:
        assert ends.pipe.written == b""
        ends.pipe.feed(bytes([byte]))
    assert ends.pipe.written == PREAMBLE + encode_data(1, bytes(10_000), opens=True)


async def test_a_listener_answers_the_preamble_even_with_nothing_to_say() -> None:
    ends = Ends("listener", negotiated=False)
    ends.pipe.feed(PREAMBLE)
    await turn(0)
    assert ends.pipe.written == PREAMBLE


@pytest.mark.parametrize("size", [1, 3, 8, 11, 1000])
async def test_a_preamble_may_be_cut_anywhere(size: int) -> None:
    ends = Ends("listener", negotiated=False)
    data = PREAMBLE + encode_data(0, b"abc", opens=True)
    for position in range(0, len(data), size):
        ends.pipe.feed(data[position : position + size])
    assert b"".join(event for event in ends.user.events if isinstance(event, bytes)) == b"abc"


STRANGERS = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP request"),
    (b"POST /rpc HTTP/1.1\r\n\r\n", "HTTP request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP request"),
    (b"HTTP/1.1 400 Bad Request\r\n", "HTTP server"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "TLS client hello"),
    (b"\x15\x03\x03\x00\x02\x02\x28\x00", "TLS alert"),
    (bytes(100), "zeros"),
    (b"SSH-2.0-OpenSSH", "SSH"),
    (b"\x81\xff\x00\x12abcd", "not EchoStream"),
]


@pytest.mark.parametrize("role", ["dialer", "listener"])
@pytest.mark.parametrize(("data", "meaning"), STRANGERS)
async def test_a_stranger_is_named(role: Role, data: bytes, meaning: str) -> None:
    ends = Ends(role, negotiated=False)
    await turn(0)
    before = ends.pipe.written
    ends.pipe.feed(data)
    assert isinstance(ends.error, RemoteProtocolError)
    assert ends.error.close_code == CloseCode.VERSION
    assert meaning in str(ends.error)
    assert repr(data[:8])[2:-1] in str(ends.error)
    assert str(ends.error).isprintable()
    assert ends.pipe.log == ["close"]
    answer = ends.pipe.written[len(before) :]
    if role == "listener" and meaning == "HTTP request":
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        head, body = answer.split(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"speaks EchoStream" in body
    else:
        assert answer == b"", "a stranger would not understand it"


async def test_another_major_version_is_told_so() -> None:
    ends = Ends("listener", negotiated=False)
    ends.pipe.feed(b"ESTREAM2 whatever comes")
    assert "another major version" in str(ends.error)
    assert ends.pipe.written.startswith(PREAMBLE)
    ((kind, _, body),) = frames(ends.pipe.written[len(PREAMBLE) :])
    assert (kind, body[0]) == (CLOSE, CloseCode.VERSION)


async def test_a_peer_that_ends_before_its_preamble_is_lost() -> None:
    ends = Ends("listener", negotiated=False)
    ends.pipe.feed(b"EST")
    ends.pipe.end(EndOfStream("eof"))
    assert isinstance(ends.error, ConnectionLost)
    assert "before its first eight bytes" in str(ends.error)


# The end.


async def test_closing_says_why_then_ends_the_pipe_and_is_reported_when_it_is_gone() -> None:
    ends = Ends()
    control, data = ends.open(Priority.CONTROL), ends.open()
    control.write([b"last words"])
    data.write([b"lost"])
    ends.connection.close(CloseCode.GOING_AWAY, "bye")
    ends.connection.close(CloseCode.OK, "again")
    assert ends.pipe.written == encode_data(0, b"last words", opens=True) + encode_close(6, "bye")
    assert ends.pipe.log == ["close"]
    ends.pipe.feed(encode_data(1, b"too late", opens=True))
    assert ends.user.closed == []
    ends.pipe.end(None)
    assert ends.user.closed == [None]
    assert ends.user.events == []
    assert data.write([bytes(1_000_000)])
    await turn(0)
    assert ends.pipe.written.endswith(encode_close(6, "bye"))
    with pytest.raises(ResourceClosed):
        ends.connection.open_substream()


async def test_closing_before_a_dialer_has_spoken_still_says_why() -> None:
    ends = Ends("listener", negotiated=False)
    ends.connection.close(CloseCode.TIMEOUT, "no SETUP")
    assert ends.pipe.written == PREAMBLE + encode_close(4, "no SETUP")


async def test_a_pipe_that_does_not_close_is_aborted_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()
    timers: list[tuple[float, Callable[[], None]]] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, callback: timers.append((delay, callback)))
    ends.connection.close(0, "")
    ((delay, callback),) = timers
    assert delay == LINGER_S
    callback()
    assert ends.pipe.log == ["close", "abort"]


async def test_no_timer_is_left_when_the_pipe_is_gone() -> None:
    ends = Ends()
    ends.connection.close(0, "")
    timer = ends.connection._linger
    assert timer is not None
    ends.pipe.end(None)
    assert timer.cancelled()
    assert ends.connection._linger is None


async def test_aborting_drops_everything() -> None:
    ends = Ends()
    ends.open().write([b"lost"])
    ends.connection.abort()
    ends.connection.abort()
    await turn(0)
    assert ends.pipe.writes == []
    assert ends.user.closed == []
    ends.pipe.end(ConnectionLost("reset"))
    assert ends.user.closed == [None]


async def test_an_orderly_close_of_the_peer_is_the_end_of_the_stream() -> None:
    ends = Ends("listener")
    ends.pipe.feed(encode_data(0, b"x", opens=True) + encode_close(0, "done"))
    assert isinstance(ends.error, EndOfStream)
    assert ends.pipe.log == ["close"]
    ends.pipe.feed(encode_data(2, b"x", opens=True))
    ends.pipe.end(None)
    assert len(ends.user.closed) == 1
    assert ends.user.events == [b"x"]
    ends.connection.close(0, "")
    ends.connection.abort()


async def test_a_close_with_a_code_is_a_loss_with_that_code_and_an_escaped_reason() -> None:
    ends = Ends("listener")
    ends.pipe.feed(encode_close(5, "who are you?\x1b[31m\n" + "x" * 500))
    assert isinstance(ends.error, ConnectionLost)
    assert ends.error.close_code == CloseCode.UNAUTHENTICATED
    assert "UNAUTHENTICATED" in str(ends.error)
    assert str(ends.error).isprintable()
    assert "who are you?" in str(ends.error)
    assert len(str(ends.error)) < 300


async def test_a_close_with_a_code_that_nobody_knows_is_told_as_it_is() -> None:
    ends = Ends("listener")
    ends.pipe.feed(encode_close(4_000_000_000, ""))
    assert isinstance(ends.error, ConnectionLost)
    assert ends.error.close_code == 4_000_000_000
    assert "4000000000" in str(ends.error)


@pytest.mark.parametrize("how", [None, EndOfStream("eof")])
async def test_a_pipe_that_ends_without_close_is_lost(how: EchoStreamError | None) -> None:
    ends = Ends()
    ends.pipe.end(how)
    assert isinstance(ends.error, ConnectionLost)
    assert "without a closing frame" in str(ends.error)
    assert ends.error.__cause__ is how


async def test_a_broken_pipe_is_reported_as_it_is() -> None:
    ends = Ends()
    error = ConnectionLost("reset by peer")
    ends.pipe.end(error)
    assert ends.error is error


async def test_a_peer_that_breaks_the_rules_is_told_and_the_session_too() -> None:
    ends = Ends("listener")
    ends.pipe.feed(encode_data(0, b"fine", opens=True) + encode_data(2, b"never opened"))
    assert isinstance(ends.error, RemoteProtocolError)
    ((kind, _, body),) = frames(ends.pipe.written)
    assert (kind, body[0]) == (CLOSE, CloseCode.PROTOCOL)
    assert "never opened" in body[4:].decode()
    assert ends.pipe.log == ["close"]
    assert ends.user.events == [b"fine"]
    ends.pipe.end(None)
    assert len(ends.user.closed) == 1


async def test_too_much_data_is_refused_with_the_code_for_limits() -> None:
    ends = Ends("listener")
    ends.pipe.feed(encode_data(2, bytes(INITIAL_WINDOW_BYTES), opens=True) + encode_data(2, b"x"))
    assert isinstance(ends.error, RemoteProtocolError)
    assert ends.error.close_code == CloseCode.LIMIT


async def test_a_failing_callback_ends_the_connection_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = Ends("listener")

    def fail() -> None:
        raise ZeroDivisionError("a bug above")

    ends.user.react = fail
    ends.pipe.feed(encode_data(0, b"x", opens=True) + encode_data(0, b"y"))
    assert isinstance(ends.error.__cause__, ZeroDivisionError)
    assert ends.user.events == [b"x"]
    ((_, _, body),) = frames(ends.pipe.written)
    assert body[0] == CloseCode.INTERNAL
    assert b"bug" not in body
    assert "a bug above" in caplog.text


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_ending_inside_a_callback_stops_delivery_at_once(how: str) -> None:
    ends = Ends("listener")
    end = ends.connection.abort if how == "abort" else lambda: ends.connection.close(0, "")
    ends.user.react = end
    ends.pipe.feed(encode_data(0, b"x", opens=True) + encode_data(0, b"y") + encode_reset(0, 1))
    assert ends.user.events == [b"x"]
    ends.pipe.end(None)
    assert ends.user.closed == [None]


async def test_ending_inside_on_writable_stops_the_others() -> None:
    ends = Ends()
    ends.pipe.room = False
    ends.open(Priority.CONTROL).write([bytes(200_000)])
    ends.open().write([bytes(70_000)])
    ends.user.react = ends.connection.abort
    ends.pipe.make_room()
    await turn(0)
    assert ends.user.events == ["writable"]


STORY = (
    PREAMBLE
    + encode_data(0, b"setup", opens=True)
    + encode_data(2, b"body", opens=True, ends=True)
    + encode_reset(0, 1)
    + encode_close(0, "")
)


@pytest.mark.parametrize("cut", range(len(STORY)))
async def test_a_pipe_cut_anywhere_is_one_lost_connection(cut: int) -> None:
    ends = Ends("listener", negotiated=False)
    ends.pipe.feed(STORY[:cut])
    ends.pipe.end(EndOfStream("eof"))
    assert type(ends.error) is ConnectionLost
    ends.use_all_again()
    await turn(0)
    assert len(ends.user.closed) == 1


# Both ends.


async def test_two_of_them_back_to_back_carry_what_is_written() -> None:
    one, other = Ends(negotiated=False), Ends("listener", negotiated=False)
    control, upload = one.open(Priority.CONTROL), one.open(Priority.BULK)
    control.write([b"setup"])
    upload.write([bytes(3_000_000)], True)
    received = 0

    async def carry() -> None:
        for source, target in ((one, other), (other, one)):
            writes, source.pipe.writes = source.pipe.writes, []
            for write in writes:
                target.pipe.feed(b"".join(write))
        await turn(0)

    for _ in range(1000):
        await carry()
        received = sum(len(event) for event in other.user.events if isinstance(event, bytes))
        for event in other.user.events[-1:]:
            if isinstance(event, bytes) and len(other.user.substreams) == 2:
                window = other.user.substreams[1].window  # type: ignore[attr-defined]
                other.user.substreams[1].consume(window.received - window.consumed)
    assert received == 3_000_000 + len(b"setup")
    assert other.user.events[-1] == "end"
