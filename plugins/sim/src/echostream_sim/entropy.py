"""One seed for everything that asks the system for randomness: for simulations only.

A simulated network draws what it does from its own seeded streams, but the programs on it have randomness of their
own: connection ids, keys, the kernel's grease. Inside :func:`seeded` it comes out of the seed, so that two runs send
packets of the same sizes at the same times, and their recorders have the same hash.

Keys that are made inside are worth nothing: whoever knows the seed knows them. Never use it around a program that
talks to a real network; it refuses to begin while an event loop other than a simulation's is running.

What it cannot reach are the random numbers that C libraries make for themselves, such as OpenSSL's. For the sizes of
packets they do not matter, but for signatures whose encoding varies in length: take a certificate of
:func:`~echostream_sim.certificates.fixed_certificate`.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from echostream_core.errors import ConfigError

__all__ = ["seeded"]

_ACTIVE: Final[list[int]] = []
"""The seeds in force, innermost last."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let ``os.urandom``, ``secrets``, ``uuid.uuid4``, the module ``random`` and every ``random.Random()`` that is made
    without a seed follow from ``seed``, in all threads of this process, until the block ends. Unsafe: see above.

    ConfigError when an event loop is running that is not a simulation's.
    """
    _refuse_real_loops()
    source = random.Random(f"echostream_sim.entropy:{seed}")
    real_urandom, real_seed = os.urandom, random.Random.seed
    state = random.getstate()

    def urandom(size: int, /) -> bytes:
        return source.randbytes(size)

    def seed_random(self: random.Random, a: Any = None, version: int = 2) -> None:
        # SystemRandom ignores its seed; asked for one, it would draw from the stream and change what others get.
        draw = a is None and not isinstance(self, random.SystemRandom)
        real_seed(self, source.getrandbits(256) if draw else a, version)

    _ACTIVE.append(seed)
    os.urandom = urandom
    random._urandom = urandom  # type: ignore[attr-defined]  # the name under which SystemRandom, and so secrets, has it
    random.Random.seed = seed_random  # type: ignore[method-assign]  # same arguments
    random.seed(source.getrandbits(256))
    try:
        yield
    finally:
        _ACTIVE.pop()
        os.urandom = real_urandom
        random._urandom = real_urandom  # type: ignore[attr-defined]
        random.Random.seed = real_seed  # type: ignore[method-assign]
        random.setstate(state)


def _refuse_real_loops() -> None:
    from echostream_sim.loop import SimLoop

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if not isinstance(loop, SimLoop):
        raise ConfigError(
            "echostream_sim.entropy.seeded makes keys that anybody can guess: it works around or inside "
            "echostream_sim.simulate(), not on an event loop that talks to a real network"
        )
