"""The built-in codec passes the suite that ships with the test kit, where that is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from echostream_testkit import CodecConformance
else:
    CodecConformance = pytest.importorskip(
        "echostream_testkit", reason="the suite is part of echostream-testkit, which is not installed"
    ).CodecConformance


class TestJson(CodecConformance):
    """JSON has words for neither bytes nor NaN: its spec claims no bytes, and the suite holds it to that."""

    name = "json"
    hostile = (
        *(b"NaN", b"Infinity", b"-Infinity", b"[1e999]", b"01", b"+1", b"1.", b".5", b"0x10", b"1_000"),
        *(b"[1,]", b"[,1]", b"[1 2]", b'{"a":1,}', b"{a:1}", b"{1:1}", b"{'a':1}", b'{"a"::1}', b"1//", b"/**/1"),
        *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x41"', b'"\\u12"', b'"a\nb"', b'"a\0b"', b"\xef\xbb\xbf1"),
        *(b"18446744073709551616", b"[-9223372036854775809]", b"9" * 100_000, '"a"'.encode("utf-16")),
        *(b'{"a":1,"\\u0061":2}', b'{"a" :1,"a"\n:2}', b'{"x:y":1,"x:y":2}', b'[{"":{},"":{}}]'),
    )
