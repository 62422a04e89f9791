"""The options of ``[codec.msgpack]``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from echostream_core.value_model import HIGHEST_MAX_DEPTH

__all__ = ["MsgpackOptions"]


class MsgpackOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to accept from peers. The defaults suit peers that nobody vouches for."""

    max_depth: Annotated[int, msgspec.Meta(ge=1, le=HIGHEST_MAX_DEPTH)] = 64
    """How deep lists and maps may nest, in both directions. ``[[1]]`` is 2 deep."""
    duplicate_keys: Literal["reject", "last"] = "reject"
    """A map that names a key twice: refuse the message, or keep the last as most readers do."""
    timestamps: Literal["reject", "text"] = "reject"
    """A timestamp (extension type -1): refuse the message, or hand it over as RFC 3339 text in UTC.

    Text has microseconds; nanoseconds are cut. A time outside the years 1 to 9999 is refused all the same.
    """
    ext_types: Literal["reject", "bytes"] = "reject"
    """Any other extension type: refuse the message, or hand over its content as bytes."""
