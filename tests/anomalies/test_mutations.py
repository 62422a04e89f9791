"""A valid exchange with a few bytes changed: an answer or a clear end, never a crash, a hang or a leak.

Seeded, so that a failure can be played again; the seed is the test's parameter.
"""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from echostream_core import CloseCode, Limits, RpcServer
from echostream_core.wire.frames import (
    FULL_NAME,
    SubstreamKind,
    encode_cancel,
    encode_ping,
    encode_substream_head,
    grease_frame,
)
from echostream_core.wire.message import encode_call_head, encode_data_head
from echostream_core.wire.metadata import encode_metadata
from tests.support.handlers import BASIC
from tests.support.pairs import memory_url
from tests.support.raw_peer import JSON, call, dialled, raw_setup
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)

ROUNDS = 40


def control_bytes() -> bytes:
    """Something of everything on the control substream."""
    metadata = encode_metadata([("tenant", "a"), ("trace-bin", b"\x00\x01")], Limits())
    return b"".join(
        (
            raw_setup(credentials={"token": "t"}, name="fuzzed"),
            call(0, "echo", b'{"a":[1,2,3]}', timeout_ms=500),
            encode_call_head(2, 0, b"add", FULL_NAME, JSON, 2, metadata, 13) + b'{"a":1,"b":2}',
            grease_frame(12_345),
            encode_ping(77),
            encode_cancel(0),
            call(4, "count", b"5"),
        )
    )


def substream_bytes() -> list[bytes]:
    """A large call and a stream, heads included."""
    large = encode_call_head(6, 900, b"echo", FULL_NAME, JSON, 3, b"", 3_002) + b'"' + b"x" * 3_000 + b'"'
    opening = encode_call_head(8, 0, b"collect", FULL_NAME, JSON, 2, b"", 4) + b"null"
    items = encode_data_head(0, 5) + b"bytes" + encode_data_head(JSON, 6) + b'"text"'
    return [
        encode_substream_head(SubstreamKind.CALL, 2, 6) + large,
        encode_substream_head(SubstreamKind.STREAM, 2, 8) + opening + items,
    ]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """``data`` with one to three changes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        position = draw.randrange(len(changed))
        match draw.randrange(5):
            case 0:
                changed[position] ^= 1 << draw.randrange(8)
            case 1:
                changed[position] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[position : position + draw.randint(1, 9)]
            case 3:
                changed[position:position] = draw.randbytes(draw.randint(1, 9))
            case _:
                other = draw.randrange(len(changed))
                changed[position : position + 8] = changed[other : other + 8]
        if not changed:
            return b"\x00"
    return bytes(changed)


@pytest.mark.parametrize("seed", range(12))
async def test_a_mutated_exchange_is_answered_or_ended(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    draw = random.Random(seed)
    async with RpcServer(
        memory_url(), *BASIC, drain_timeout=0, limits={"setup_timeout_s": 1, "keepalive_interval_s": 0}
    ) as server:
        for turn in range(ROUNDS):
            caplog.clear()
            control, others = control_bytes(), substream_bytes()
            which = draw.randrange(3)
            if which == 0:
                control = mutated(control, draw)
            else:
                others[which - 1] = mutated(others[which - 1], draw)
            peer = await dialled(server.addresses[0])
            peer.begin()
            for data in others:
                peer.open(data, end=draw.random() < 0.5)
            step = draw.choice((1, 7, 64, 10_000))
            for position in range(0, len(control), step):
                peer.control.send(control[position : position + step])
                await asyncio.sleep(0)
            await settle(60)
            await asyncio.sleep(2)  # virtual: deadlines and timeouts pass
            if peer.closed.done():
                code = await peer.close_code()
                assert code in (CloseCode.PROTOCOL, CloseCode.LIMIT, CloseCode.TIMEOUT), (turn, code)
            crashes = [
                record.getMessage()
                for record in caplog.records
                if record.levelno >= logging.ERROR and record.name != "echostream.handler"
            ]
            assert not crashes, (turn, crashes)
            peer.connection.abort()
            await until(lambda: not server._sessions and not other_tasks())
