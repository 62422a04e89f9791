"""The options of ``[compression.zstd]``."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["ZstdOptions"]


class ZstdOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this end compresses; what it takes from peers does not depend on them."""

    level: Annotated[int, msgspec.Meta(ge=-50, le=19)] = 3
    """From quick to small. Negative levels are quicker than 1 and compress less; 19 takes 200 times as long as 3."""
    min_bytes: Annotated[int, msgspec.Meta(ge=64)] = 1_024
    """Encoded bodies from this size on are compressed: below, the time outweighs what is saved."""
