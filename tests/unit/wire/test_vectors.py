"""The vectors of docs/wire.md: each is read, each is written, and the specification shows nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from echostream_core import RpcServer
from echostream_core.errors import CloseCode, RemoteProtocolError, RpcError, StatusCode
from echostream_core.wire.events import (
    address_event,
    encode_dropped,
    encode_event,
    encode_flow,
    encode_sync,
    encode_synced,
    encode_topic,
)
from echostream_core.wire.frames import (
    CALL,
    CALL_HEAD,
    COMPRESSED,
    ERROR,
    IGNORABLE,
    PACKED,
    PREFIX,
    RESPONSE,
    SUBSTREAM_HEAD,
    FrameType,
    SubstreamKind,
    encode_cancel,
    encode_goaway,
    encode_ping,
    encode_pong,
    encode_substream_head,
)
from echostream_core.wire.limits import Limits
from echostream_core.wire.message import (
    MessageReader,
    encode_call_head,
    encode_data_head,
    encode_response_head,
    parse_call,
    parse_response,
)
from echostream_core.wire.metadata import decode_error, decode_metadata, encode_error, encode_metadata
from echostream_core.wire.setup import Setup, encode_setup
from echostream_core.wire.states import LEGAL, By
from tests.support.feeding import FEEDINGS, Feed
from tests.support.pairs import memory_url
from tests.support.raw_peer import dialled
from tests.unit.wire.control_recorder import MINIMAL_SETUP, control_reader
from tests.unit.wire.events_recorder import events_reader

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("setup", "control", "substream", "events", "metadata", "errors")
LIMITS = Limits()
PING = encode_ping(7)
"""What follows a vector on the control substream when it is fed with bytes to spare."""

Vector = dict[str, Any]
FILES: dict[str, list[Vector]] = {
    name: json.loads((ROOT / f"tests/vectors/{name}.json").read_text(encoding="utf-8")) for name in NAMES
}
HEX = {f"{file}/{vector['name']}": vector["hex"] for file, vectors in FILES.items() for vector in vectors}


def legal(file: str, *, canonical: bool = False) -> list[Any]:
    return [
        pytest.param(vector, id=vector["name"])
        for vector in FILES[file]
        if "close_code" not in vector and (not canonical or vector.get("canonical", True))
    ]


def illegal(file: str, *, session: bool = False) -> list[Any]:
    return [
        pytest.param(vector, id=vector["name"])
        for vector in FILES[file]
        if "close_code" in vector and vector.get("session", False) == session
    ]


def raw(vector: Vector) -> bytes:
    return bytes.fromhex(vector["hex"])


def before(vector: Vector) -> bytes:
    """What the same side sent before a vector of control.json."""
    names = {item["name"]: item for item in [*FILES["setup"], *FILES["control"]]}
    return b"".join(raw(names[name]) for name in vector["after"])


def as_lists(calls: list[tuple[object, ...]]) -> list[list[object]]:
    return [list(call) for call in calls]


# The files themselves.


@pytest.mark.parametrize("name", NAMES)
def test_every_vector_has_a_name_of_its_own_and_a_meaning(name: str) -> None:
    vectors = FILES[name]
    assert len({vector["name"] for vector in vectors}) == len(vectors)
    for vector in vectors:
        assert vector["meaning"], vector["name"]
        assert raw(vector).hex() == vector["hex"]
        if "close_code" in vector:
            assert CloseCode(vector["close_code"])


def shown_in_the_specification() -> dict[str, str]:
    """Name → digits of every hex example in docs/wire.md; each has a line with its name and then lines of digits."""
    text = (ROOT / "docs/wire.md").read_text(encoding="utf-8")
    shown: dict[str, str] = {}
    for block in re.findall(r"^```hex\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        name = ""
        for line in block.splitlines():
            title = re.match(r"# ([\w-]+/[\w-]+)(:|$)", line)
            if title:
                name = title[1]
                assert name not in shown, f"{name} is shown twice"
                shown[name] = ""
            else:
                assert name and re.fullmatch(r"[0-9a-f ]+", line), f"neither a name nor hex digits: {line}"
                shown[name] += line.replace(" ", "")
    return shown


def test_the_specification_shows_vectors_only() -> None:
    shown = shown_in_the_specification()
    assert len(shown) > 30
    assert {name: HEX.get(name) for name in shown} == shown


@pytest.mark.parametrize("file", ["setup", "control", "events"])
def test_every_legal_frame_of_the_control_and_events_substreams_is_shown_in_the_specification(file: str) -> None:
    shown = shown_in_the_specification()
    hidden = ("grease", "event-empty", "event-compressed-full-name") if file == "events" else ()
    wanted = [
        f"{file}/{vector['name']}"
        for vector in FILES[file]
        if "close_code" not in vector and vector["name"] not in hidden
    ]
    assert [name for name in wanted if name not in shown] == []


# SETUP.


def setup_of(vector: Vector) -> Setup:
    fields = dict(vector["setup"])
    listeners = tuple(tuple(one) for one in fields.get("listeners", ()))
    compression = tuple(fields.get("compression", ()))
    return Setup(**fields | {"codecs": tuple(fields["codecs"]), "listeners": listeners, "compression": compression})


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", legal("setup"))
def test_a_setup_vector_is_read(vector: Vector, feed: Feed) -> None:
    reader, recorder = control_reader(setup=False)
    feed(reader.receive, raw(vector), PING)
    assert recorder.setup == setup_of(vector)
    assert recorder.calls[1:] == [("ping", 7)]


@pytest.mark.parametrize("vector", legal("setup", canonical=True))
def test_a_setup_vector_is_written(vector: Vector) -> None:
    assert encode_setup(setup_of(vector), LIMITS).hex() == vector["hex"]


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", illegal("setup"))
def test_an_illegal_setup_vector_is_refused_with_its_code(vector: Vector, feed: Feed) -> None:
    reader, recorder = control_reader(setup=False)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(reader.receive, raw(vector), PING)
    assert caught.value.close_code == vector["close_code"]
    assert recorder.calls == []


# The control substream.


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", legal("control"))
def test_a_control_vector_is_read(vector: Vector, feed: Feed) -> None:
    reader, recorder = control_reader(setup=False)
    reader.receive(before(vector))
    recorder.calls.clear()
    feed(reader.receive, raw(vector), PING)
    assert as_lists(recorder.calls) == [*vector["calls"], ["ping", 7]]


@pytest.mark.parametrize("vector", legal("control"))
def test_a_control_vector_is_written(vector: Vector) -> None:
    assert control_frame(vector["frame"]).hex() == vector["hex"]


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", illegal("control"))
def test_an_illegal_control_vector_is_refused_with_its_code(vector: Vector, feed: Feed) -> None:
    reader, recorder = control_reader(setup=False)
    reader.receive(before(vector))
    recorder.calls.clear()
    with pytest.raises(RemoteProtocolError) as caught:
        feed(reader.receive, raw(vector), PING)
    assert caught.value.close_code == vector["close_code"]
    assert recorder.calls == []


def control_frame(frame: Vector) -> bytes:
    """The bytes that our writers give for the fields of a vector."""
    flags = COMPRESSED if frame.get("compressed") else 0
    match frame["type"]:
        case "CALL":
            payload = bytes.fromhex(frame["payload"])
            metadata = bytes.fromhex(frame["metadata"] or "")
            number, timeout, method, codec, level = (
                frame[key] for key in ("number", "timeout_ms", "method", "codec", "class")
            )
            if frame["name"] is not None:
                name = frame["name"].encode()
                head = encode_call_head(number, timeout, name, method, codec, level, metadata, len(payload), flags)
            else:
                length = 12 + len(metadata) + len(payload)
                head = (
                    CALL_HEAD.pack(CALL, flags, len(metadata), length, number, timeout, method, codec, level) + metadata
                )
            return head + payload
        case "RESPONSE":
            payload = bytes.fromhex(frame["payload"])
            flags |= ERROR if frame["error"] else 0
            return encode_response_head(frame["number"], flags, frame["codec"], len(payload)) + payload
        case "CANCEL":
            return encode_cancel(frame["number"])
        case "PING":
            return encode_ping(frame["value"])
        case "PONG":
            return encode_pong(frame["value"])
        case "GOAWAY":
            return encode_goaway(frame["number"], frame["code"], frame["reason"])
        case "SYNCED":
            return encode_synced(frame["number"])
        case "FLOW":
            return encode_flow(frame["subscription"], paused=frame["paused"])
        case _:
            body = bytes.fromhex(frame["body"])
            return PREFIX.pack(frame["kind"], IGNORABLE, 0, len(body)) + body


# The events substream.


def events_before(vector: Vector) -> bytes:
    """What the same side sent before a vector of events.json."""
    names = {item["name"]: item for item in FILES["events"]}
    return b"".join(raw(names[name]) for name in vector.get("after", ()))


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", legal("events"))
def test_an_events_vector_is_read(vector: Vector, feed: Feed) -> None:
    reader, recorder = events_reader()
    reader.receive(events_before(vector))
    feed(reader.receive, raw(vector), encode_sync(7))
    assert as_lists(recorder.calls) == [*vector["calls"], ["sync", 7]]
    assert reader.between_frames


@pytest.mark.parametrize("vector", legal("events"))
def test_an_events_vector_is_written(vector: Vector) -> None:
    assert events_frame(vector["frame"]).hex() == vector["hex"]


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", illegal("events"))
def test_an_illegal_events_vector_is_refused_with_its_code(vector: Vector, feed: Feed) -> None:
    reader, recorder = events_reader()
    reader.receive(events_before(vector))
    with pytest.raises(RemoteProtocolError) as caught:
        feed(reader.receive, raw(vector), encode_sync(7))
    assert caught.value.close_code == vector["close_code"]
    assert recorder.calls == []


def events_frame(frame: Vector) -> bytes:
    """The bytes that our writers give for the fields of a vector."""
    match frame["type"]:
        case "TOPIC":
            return encode_topic(frame["topic"].encode(), frame["number"])
        case "EVENT":
            payload = bytes.fromhex(frame["payload"])
            flags = COMPRESSED if frame.get("compressed") else 0
            whole = encode_event(frame["topic"].encode(), frame["topic_number"], frame["codec"], payload, flags)
            return b"".join(address_event(whole, frame["subscriptions"])) if frame["subscriptions"] else whole
        case "DROPPED":
            return encode_dropped(frame["subscription"], frame["reason"], frame["count"])
        case "SYNC":
            return encode_sync(frame["number"])
        case _:
            body = bytes.fromhex(frame["body"])
            return PREFIX.pack(frame["kind"], IGNORABLE, 0, len(body)) + body


# Substreams.


class FrameRecorder:
    """Writes down the frames of one direction of a substream, by their fields."""

    def __init__(self) -> None:
        self.frames: list[Vector] = []
        self.begun: list[tuple[int, int]] = []

    def on_frame_begin(self, kind: int, length: int) -> None:
        self.begun.append((kind, length))

    def on_skipped(self, size: int) -> None:
        """Not looked at here."""

    def on_frame(self, kind: int, flags: int, aux: int, body: bytes) -> None:
        if kind == FrameType.CALL:
            number, timeout, name, codec, level, metadata, payload = parse_call(flags, aux, body)
            assert bool(codec & PACKED) == bool(flags & COMPRESSED)
            codec &= ~PACKED
            fields: Vector = {"number": number, "timeout_ms": timeout, "name": name, "codec": codec, "class": level}
            fields["metadata"] = None if metadata is None else bytes(metadata).hex()
            self.frames.append({"type": "CALL", **fields, "payload": bytes(payload).hex()})
        elif kind == RESPONSE:
            number, codec, payload = parse_response(body)
            error = bool(flags & ERROR)
            content = bytes(payload).hex()
            self.frames.append(
                {"type": "RESPONSE", "number": number, "error": error, "codec": codec, "payload": content}
            )
        else:
            self.frames.append({"type": "DATA", "codec": aux, "item": body.hex()})
        if flags & COMPRESSED:
            self.frames[-1]["compressed"] = True


def message_reader(vector: Vector) -> tuple[MessageReader, FrameRecorder]:
    recorder = FrameRecorder()
    return MessageReader(recorder, LEGAL[(SubstreamKind[vector["kind"]], By(vector["by"]))]), recorder


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", legal("substream"))
def test_a_substream_vector_is_read(vector: Vector, feed: Feed) -> None:
    data = raw(vector)
    if "head" in vector:
        kind, level, reserved, number = SUBSTREAM_HEAD.unpack_from(data)
        assert {"kind": kind, "class": level, "number": number} == vector["head"]
        assert reserved == 0
        data = data[8:]
    if vector["kind"] == "CONTROL":
        assert data == b""
        return
    reader, recorder = message_reader(vector)
    spare = bytes.fromhex("1a80000002000000") + b"??"
    feed(reader.receive, data, spare)
    assert reader.between_frames
    assert recorder.frames == vector["frames"]
    assert [FrameType(kind).name for kind, _ in recorder.begun] == [frame["type"] for frame in vector["frames"]]


@pytest.mark.parametrize("vector", legal("substream", canonical=True))
def test_a_substream_vector_is_written(vector: Vector) -> None:
    data = b""
    if "head" in vector:
        head = vector["head"]
        data = encode_substream_head(head["kind"], head["class"], head["number"])
    for frame in vector["frames"]:
        data += substream_frame(frame)
    assert data.hex() == vector["hex"]


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", illegal("substream"))
def test_an_illegal_substream_vector_is_refused_with_its_code(vector: Vector, feed: Feed) -> None:
    reader, recorder = message_reader(vector)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(reader.receive, raw(vector), b"")
    assert caught.value.close_code == vector["close_code"]
    assert recorder.frames == []


@pytest.mark.parametrize("vector", illegal("substream", session=True))
async def test_an_illegal_head_ends_the_session_with_its_code(vector: Vector) -> None:
    url = memory_url()
    async with RpcServer(url):
        peer = await dialled(url, MINIMAL_SETUP)
        peer.open(raw(vector))
        assert await peer.close_code() == vector["close_code"]


def substream_frame(frame: Vector) -> bytes:
    """The bytes that our writers give for one frame of a substream vector."""
    if frame["type"] == "DATA":
        item = bytes.fromhex(frame["item"])
        return encode_data_head(frame["codec"], len(item), COMPRESSED if frame.get("compressed") else 0) + item
    return control_frame({"method": 0xFFFF, **frame})


# Metadata.


def pairs_of(vector: Vector) -> list[tuple[str, str | bytes]]:
    return [
        (key, bytes.fromhex(value["bytes"]) if "bytes" in value else value["text"]) for key, value in vector["pairs"]
    ]


@pytest.mark.parametrize("vector", legal("metadata"))
def test_a_metadata_vector_is_read_and_written(vector: Vector) -> None:
    for data in (raw(vector), bytearray(raw(vector)), memoryview(b"\xee" + raw(vector) + b"\xee")[1:-1]):
        assert decode_metadata(data, LIMITS) == pairs_of(vector)
    assert encode_metadata(pairs_of(vector), LIMITS).hex() == vector["hex"]


@pytest.mark.parametrize("vector", illegal("metadata"))
def test_an_illegal_metadata_vector_is_refused_with_its_code(vector: Vector) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_metadata(raw(vector), LIMITS)
    assert caught.value.close_code == vector["close_code"]


# Errors.


@pytest.mark.parametrize("vector", legal("errors"))
def test_an_error_vector_is_read(vector: Vector) -> None:
    for data in (raw(vector), bytearray(raw(vector)), memoryview(b"\xee" + raw(vector) + b"\xee")[1:-1]):
        code, message, details, not_processed, retryable, retry_after = decode_error(data, LIMITS)
        assert {
            "code": int(code),
            "not_processed": not_processed,
            "retryable": retryable,
            "retry_after_ms": round(retry_after * 1000),
            "message": message,
            "details": [[name, value.hex()] for name, value in details],
        } == vector["error"]


@pytest.mark.parametrize("vector", legal("errors", canonical=True))
def test_an_error_vector_is_written(vector: Vector) -> None:
    fields = vector["error"]
    error = RpcError(
        StatusCode(fields["code"]),
        fields["message"],
        not_processed=fields["not_processed"],
        retryable=fields["retryable"],
        retry_after=fields["retry_after_ms"] / 1000,
    )
    details = [(name, bytes.fromhex(value)) for name, value in fields["details"]]
    assert encode_error(error, details, LIMITS).hex() == vector["hex"]


@pytest.mark.parametrize("vector", illegal("errors"))
def test_an_illegal_error_vector_is_refused_with_its_code(vector: Vector) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_error(raw(vector), LIMITS)
    assert caught.value.close_code == vector["close_code"]
