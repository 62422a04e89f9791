"""The frames as they stand on the wire: the vectors, and the examples in the specification."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echostream_core.errors import RemoteProtocolError
from echostream_core.wire import mux_frames
from echostream_core.wire.limits import MAX_MUX_FRAME_BYTES
from echostream_core.wire.mux_frames import (
    END,
    HEADER_BYTES,
    IGNORABLE,
    MAX_REASON_BYTES,
    OPEN,
    encode_close,
    encode_credit,
    encode_data,
    encode_datagram,
    encode_reset,
    encode_stop,
    encode_unknown,
)
from tests.unit.wire.mux_recorder import FEEDINGS, Side, frames

ROOT = Path(__file__).resolve().parents[3]
VECTORS: list[dict[str, Any]] = json.loads((ROOT / "tests/vectors/mux.json").read_text(encoding="utf-8"))
LEGAL = [vector for vector in VECTORS if "frame" in vector]
ILLEGAL = [vector for vector in VECTORS if "close_code" in vector]
KINDS = {1: "DATA", 2: "CREDIT", 3: "RESET", 4: "STOP", 5: "CLOSE", 6: "DATAGRAM", 15: "GREASE"}


def named(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def side_of(vector: dict[str, Any]) -> Side:
    """A fresh side that has received what comes before the vector."""
    side = Side(vector["role"], datagrams=vector.get("datagrams", False))
    side.mux.receive(bytes.fromhex(vector["before"]))
    side.events.clear()
    return side


def encoded(frame: dict[str, Any]) -> bytes:
    match frame["kind"]:
        case "DATA":
            body = bytes.fromhex(frame["body"])
            return encode_data(frame["stream"], body, opens=frame["open"], ends=frame["end"])
        case "CREDIT":
            return encode_credit(frame["stream"], frame["limit"])
        case "RESET":
            return encode_reset(frame["stream"], frame["code"])
        case "STOP":
            return encode_stop(frame["stream"], frame["code"])
        case "CLOSE":
            return encode_close(frame["code"], frame["reason"])
        case "DATAGRAM":
            body = bytes.fromhex(frame["body"])
            return encode_datagram((body[:2], body[2:]), len(body))
        case _:
            return encode_unknown(mux_frames.GREASE, frame["stream"], bytes.fromhex(frame["body"]))


def decoded(data: bytes) -> dict[str, Any]:
    """The same fields, read from the bytes by the rules of the specification alone."""
    ((type_byte, number, body),) = frames(data)
    kind = KINDS[type_byte & 15]
    frame: dict[str, Any] = {"kind": kind, "stream": number}
    value = int.from_bytes(body[:8] if kind == "CREDIT" else body[:4], "little")
    match kind:
        case "DATA":
            frame |= {"open": bool(type_byte & OPEN), "end": bool(type_byte & END), "body": body.hex()}
        case "CREDIT":
            frame["limit"] = value
        case "CLOSE":
            frame |= {"code": value, "reason": body[4:].decode()}
        case "DATAGRAM":
            frame["body"] = body.hex()
        case "GREASE":
            assert type_byte & IGNORABLE
            frame["body"] = body.hex()
        case _:
            frame["code"] = value
    return frame


def as_json(event: tuple[object, ...]) -> list[object]:
    return [part.hex() if isinstance(part, bytes) else part for part in event]


def test_names_of_vectors_are_unique() -> None:
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS) == len(LEGAL) + len(ILLEGAL)


@pytest.mark.parametrize("vector", named(LEGAL))
def test_a_vector_encodes_to_its_bytes_and_back(vector: dict[str, Any]) -> None:
    assert encoded(vector["frame"]).hex() == vector["hex"]
    assert decoded(bytes.fromhex(vector["hex"])) == vector["frame"]


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", named(LEGAL))
def test_a_receiver_makes_of_a_vector_what_it_says(vector: dict[str, Any], feed: Callable[..., None]) -> None:
    side = side_of(vector)
    feed(side.mux, bytes.fromhex(vector["hex"]))
    assert [as_json(event) for event in side.events] == vector["events"]


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("vector", named(ILLEGAL))
def test_a_receiver_refuses_an_illegal_vector_with_its_code(vector: dict[str, Any], feed: Callable[..., None]) -> None:
    side = side_of(vector)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(side.mux, bytes.fromhex(vector["hex"]))
    assert caught.value.close_code == vector["close_code"]
    assert side.events == []


# The substream of CREDIT, RESET and STOP is looked at when their few bytes are complete; all else can be seen at once.
KNOWN_BY_HEADER = [
    vector
    for vector in ILLEGAL
    if vector["name"] not in {"reset-after-end", "close-on-substream", "credit-never-opened"}
]


@pytest.mark.parametrize("vector", named(KNOWN_BY_HEADER))
def test_an_illegal_frame_is_refused_before_its_body_is_awaited(vector: dict[str, Any]) -> None:
    side = side_of(vector)
    with pytest.raises(RemoteProtocolError):
        side.mux.receive(bytes.fromhex(vector["hex"])[:HEADER_BYTES])


def test_the_specification_shows_vectors_only() -> None:
    text = (ROOT / "docs/wire/mux.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```hex\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    by_name = {vector["name"]: vector["hex"] for vector in VECTORS}
    shown = {}
    for block in blocks:
        for name, digits in re.findall(r"^# ([\w-]+).*\n([0-9a-f ]+)\n", block, re.MULTILINE):
            shown[name] = digits.replace(" ", "")
        assert len(block.strip().splitlines()) % 2 == 0, f"a name and its bytes, in turn: {block}"
    assert len(shown) == sum(len(block.strip().splitlines()) for block in blocks) // 2 > 10
    assert {name: by_name.get(name) for name in shown} == shown


def test_every_legal_vector_is_shown_in_the_specification() -> None:
    text = (ROOT / "docs/wire/mux.md").read_text(encoding="utf-8")
    assert [vector["name"] for vector in LEGAL if f"# {vector['name']}" not in text] == []


def test_a_reason_is_cut_between_two_characters() -> None:
    ((_, _, body),) = frames(encode_close(0, "x" + "é" * MAX_REASON_BYTES))
    assert len(body) == 4 + MAX_REASON_BYTES - 1
    assert body[4:].decode() == "x" + "é" * 511


def test_a_reason_that_is_no_text_is_made_one() -> None:
    ((_, _, body),) = frames(encode_close(0, "a\ud800b"))
    assert body[4:].decode() == "a?b"


def test_a_body_over_the_limit_is_not_encoded() -> None:
    assert len(encode_data(0, bytes(MAX_MUX_FRAME_BYTES))) == HEADER_BYTES + MAX_MUX_FRAME_BYTES
    with pytest.raises(ValueError, match="65536"):
        encode_data(0, bytes(MAX_MUX_FRAME_BYTES + 1))
