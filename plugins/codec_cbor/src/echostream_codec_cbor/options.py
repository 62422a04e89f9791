"""The options of ``[codec.cbor]``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from echostream_core.value_model import HIGHEST_MAX_DEPTH

__all__ = ["CborOptions"]


class CborOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to accept from peers. The defaults suit peers that nobody vouches for."""

    max_depth: Annotated[int, msgspec.Meta(ge=1, le=HIGHEST_MAX_DEPTH)] = 64
    """How deep lists and maps may nest, in both directions. ``[[1]]`` is 2 deep."""
    duplicate_keys: Literal["reject", "last"] = "reject"
    """A map that names a key twice: refuse the message, or keep the last as most readers do."""
    indefinite_lengths: Literal["reject", "accept"] = "reject"
    """Strings, lists and maps that do not tell their length first, as streaming encoders make them."""
