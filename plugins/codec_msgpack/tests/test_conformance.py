"""The codec passes the suite that ships with the test kit, where that is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from echostream_testkit import CodecConformance
else:
    CodecConformance = pytest.importorskip(
        "echostream_testkit", reason="the suite is part of echostream-testkit, which is not installed"
    ).CodecConformance


class TestMsgpack(CodecConformance):
    """With the defaults, which suit peers that nobody vouches for."""

    name = "msgpack"
    hostile = tuple(
        bytes.fromhex(data)
        for data in (
            *("c1", "91 c1", "81 a1 61 c1"),  # never used
            *("d4 01 00", "d5 05 0000", "c7 01 05 00", "c8 0001 05 00", "d6 ff 00000001", "91 d7 ff 0000000000000001"),
            *("81 01 02", "81 c4 01 61 02", "81 90 02", "81 80 02", "81 c0 02", "81 91 01 02"),  # keys that are no text
            *("82 a1 61 01 a1 61 02", "82 a1 61 01 d9 01 61 02"),  # the same key, the second time in a longer form
            *("dd ffffffff", "df ffffffff c0", "c6 ffffffff", "db ffffffff 61", "c9 ffffffff 01"),
        )
    )
