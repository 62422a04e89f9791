"""The codec passes the suite that ships with the test kit, where that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import pytest

if TYPE_CHECKING:
    from echostream_testkit import CodecConformance
else:
    CodecConformance = pytest.importorskip(
        "echostream_testkit", reason="the suite is part of echostream-testkit, which is not installed"
    ).CodecConformance


class TestCbor(CodecConformance):
    """With the defaults, which suit peers that nobody vouches for."""

    name = "cbor"
    hostile = tuple(
        bytes.fromhex(data)
        for data in (
            *("c0 60", "c2 41 01", "c1 1a 514b67b0", "d8 23 61 61", "d8 1c 80", "d9 d9f7 01"),  # tags
            *("9f 01 ff", "bf 61 61 01 ff", "7f 61 61 ff", "5f 41 61 ff"),  # indefinite lengths
            *("3b ffffffffffffffff", "82 01 3b 8000000000000000"),  # negative integers beyond 64 bits
            *("a1 01 02", "a1 41 61 02", "a1 80 02", "a1 f6 02"),  # keys that are no text
            *("a2 61 61 01 61 61 02", "a2 61 61 01 78 01 61 02"),  # the same key, the second time in a longer form
            *("1c", "1d", "1e", "3f", "5c", "7d", "9e", "bc", "f7", "f8 18", "e0", "f8 ff", "fc", "ff"),  # reserved
        )
    )


class TestCborWithOptions(CodecConformance):
    """The strictness of the value model does not depend on the options."""

    name = "cbor"
    options: ClassVar[Mapping[str, object]] = {"max_depth": 20, "indefinite_lengths": "accept"}
    examples = 20
