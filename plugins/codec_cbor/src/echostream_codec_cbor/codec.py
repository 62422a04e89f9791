"""The codec ``cbor``: cbor2, held to the value model.

What cbor2 cannot be told by an option is seen to here:

* **Depth before writing.** ``cbor2.dumps`` of a value nested 100,000 deep kills the process. Every container is
  looked through first (25 to 60 ns per item, writing costs 150), which also finds what cbor2 would make a tag.
* **Tags before their content.** cbor2 knows some twenty tags, and some are costly for whoever reads them: a
  regular expression is compiled, a rational reduced, 2**(10**9) computed. A mapping of tag decoders that refuses
  every number is asked before the content is read.
* **Bytes behind the value.** ``cbor2.loads`` ignores them. A decoder of our own reads from a file whose position
  shows them. Making one costs 400 of 1,100 ns, so it is used again for as long as it has raised nothing.
"""

from __future__ import annotations

from functools import partial
from io import BytesIO
from typing import Any, Final, NoReturn

import cbor2

from echostream_codec_cbor.options import CborOptions
from echostream_core.codec import Codec
from echostream_core.types import Buffer
from echostream_core.value_model import fits, malformed, outside, refuse

__all__ = ["CborCodec"]

_KNOWN: Final = frozenset({type(None), bool, float, str, bytes, bytearray})
"""Scalars that need no look. Integers do: CBOR has negative ones of 65 bits, and cbor2 makes tags of larger ones."""

_WITH_VIEWS: Final = _KNOWN | {memoryview}
_CONTAINERS: Final = frozenset({dict, list, tuple})

_KEPT_BYTES: Final = 65_536
"""A larger message is not kept alive by the decoder until the next one comes."""


class CborCodec(Codec):
    """CBOR (RFC 8949), held to the value model. See :class:`CborOptions` for what it takes from peers."""

    name = "cbor"

    def __init__(self, options: CborOptions | None = None) -> None:
        """Without ``options``: the defaults."""
        options = options or CborOptions()
        self._max_depth = options.max_depth
        self._new_decoder = partial(
            cbor2.CBORDecoder,
            max_depth=options.max_depth,
            allow_indefinite=options.indefinite_lengths == "accept",
            allow_duplicate_keys=options.duplicate_keys == "last",
            strict_hashable_types=True,
            semantic_decoders=_NoTags(),
        )
        self._decoder = self._new_decoder(BytesIO())

    def encode(self, value: object) -> bytes:
        """See :meth:`Codec.encode`."""
        kind = type(value)
        cause = None
        try:
            if kind in _KNOWN:
                return cbor2.dumps(value)
            looked_at, depth = (value, self._max_depth) if kind in _CONTAINERS else ((value,), 1)
            if fits(looked_at, depth, _KNOWN):
                return cbor2.dumps(value)
            if fits(looked_at, depth, _WITH_VIEWS):  # an encoder of our own makes dumps half as fast
                return cbor2.dumps(value, encoders={memoryview: _write_view})
        except (cbor2.CBOREncodeError, ValueError, RecursionError, BufferError) as error:
            cause = error
        refuse("cbor", value, self._max_depth, cause)

    def decode(self, data: Buffer) -> object:
        """See :meth:`Codec.decode`."""
        decoder = self._decoder
        decoder.fp = source = BytesIO(data)
        try:
            value = decoder.decode()
            end = source.tell()
            if end != len(data):
                raise ValueError(f"{len(data) - end} bytes behind the value")
            kind = type(value)
            carried = kind in _KNOWN or fits(value if kind in _CONTAINERS else (value,), self._max_depth, _KNOWN)
        except BaseException as error:
            self._decoder = self._new_decoder(BytesIO())
            if isinstance(error, _FAILURES):
                raise malformed("cbor", _root(error), min(source.tell(), len(data))) from error
            raise
        if end > _KEPT_BYTES:
            decoder.fp = BytesIO()
        if carried:
            return value
        raise outside("cbor", value, self._max_depth)


_FAILURES: Final = (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError)
"""What is raised for bytes that cbor2 does not like, or that we do not."""


class _NoTags(dict[int, Any]):
    """What cbor2 asks for the decoder of a tag, before it reads the tag's content: there is none."""

    def __getitem__(self, tag: int) -> NoReturn:
        raise ValueError(f"tag {tag}")


def _root(error: BaseException) -> BaseException:
    """The first cause: cbor2 wraps the errors of decoders and of text."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _write_view(encoder: cbor2.CBOREncoder, view: memoryview) -> None:
    if not view.c_contiguous:  # bytes() would take it; the other codecs do not
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    encoder.encode_bytes(bytes(view))
