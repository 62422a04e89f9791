"""The suite that certifies a codec.

::

    class TestCbor(CodecConformance):
        name = "cbor"

It knows no format: everything it needs it reads off the codec's own messages. What the spec claims is put to the test
(``carries_bytes``), and what it does not claim is tested to be absent.
"""

from __future__ import annotations

from echostream_core.codec import Codec
from echostream_testkit.codec_hostile import HostileBytes
from echostream_testkit.codec_refusals import Refusals
from echostream_testkit.codec_round_trips import RoundTrips

__all__ = ["CodecConformance"]


class CodecConformance(RoundTrips, Refusals, HostileBytes):
    """Derive a ``Test…`` class and give it the ``name`` of an installed codec, and ``options`` if it needs any.

    ``max_depth`` and ``hostile`` tell what cannot be seen from outside; ``raw_nested`` and ``spec`` can be overridden.
    """

    def test_the_codec_is_what_its_spec_says(self) -> None:
        """The factory makes a Codec that goes by the spec's name, a new one each time; priorities are integers."""
        spec = self.spec()
        codec = self.codec()
        assert isinstance(codec, Codec), f"the factory answers a {type(codec).__name__}: derive it from Codec"
        assert codec.name == spec.name, f"the codec goes by {codec.name!r}, its spec by {spec.name!r}"
        assert self.codec() is not codec, "one codec per endpoint: a shared one is used by several threads"
        assert type(spec.priority) is int, f"the priority is {spec.priority!r}: write an integer"
        assert type(spec.carries_bytes) is bool, f"carries_bytes is {spec.carries_bytes!r}: write True or False"
