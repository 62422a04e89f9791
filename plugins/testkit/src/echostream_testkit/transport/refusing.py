"""The negative check that most flags share: a prompt CapabilityError that names the flag."""

from __future__ import annotations

from collections.abc import Callable

from echostream_core.errors import CapabilityError

__all__ = ["refuses"]


def refuses(call: Callable[[], object], flag: str) -> None:
    """``call`` raises CapabilityError whose ``capability`` is ``flag``; anything else fails the check."""
    try:
        call()
    except CapabilityError as error:
        assert error.capability == flag, f"CapabilityError names {error.capability!r}, not {flag!r}: {error}"
        return
    raise AssertionError(f"{flag} is not claimed, and yet the call was taken: CapabilityError that names it is due")
