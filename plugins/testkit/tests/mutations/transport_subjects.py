"""The suite, told what it tests: a correct transport, or a variant of one."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from echostream_core.testing import VirtualLoop
from echostream_core.transport import TransportSpec
from echostream_testkit.transport import TransportConformance
from plugins.testkit.tests.mutations.transport_dial_faults import LEFT
from plugins.testkit.tests.mutations.transport_native import native_spec
from plugins.testkit.tests.mutations.transport_pipe import plain_spec
from plugins.testkit.tests.mutations.transport_socket_faults import ALIVE, LEFT_SOCKETS, TASKS
from plugins.testkit.tests.mutations.transport_spec_faults import OPENED
from plugins.testkit.tests.mutations.transport_wired import wired_spec

__all__ = ["SUBJECTS", "NativeSubject", "PlainSubject", "Subject", "WiredSubject", "subject_of", "tidied"]


class Subject(TransportConformance):
    """The suite for a spec in code."""

    tested: ClassVar[TransportSpec]

    def spec(self) -> TransportSpec:
        return self.tested


class NativeSubject(Subject):
    """On a virtual clock: what a fault makes wait for ever is found at once."""

    url = "native://{name}"
    loop_factory = VirtualLoop
    patience_s = 2.0
    tested = native_spec()


class PlainSubject(Subject):
    """On sockets, with little patience."""

    url = "plain://127.0.0.1:0"
    patience_s = 1.0
    tested = plain_spec()


class WiredSubject(Subject):
    """Likewise."""

    url = "wired://127.0.0.1:0"
    patience_s = 1.0
    tested = wired_spec()


SUBJECTS: dict[str, type[Subject]] = {"native": NativeSubject, "plain": PlainSubject, "wired": WiredSubject}


def subject_of(spec: TransportSpec, **changes: object) -> type[Subject]:
    """The suite for ``spec``, a variant of one of the three; ``changes`` are of its class."""
    return type("Variant", (SUBJECTS[spec.scheme.lower()],), {"tested": spec, **changes})


@contextmanager
def tidied(spec: TransportSpec) -> Iterator[None]:
    """Close what faulty transports leave open, and keep to ourselves what is said of it: that is what is tested."""
    loggers = [logging.getLogger(name) for name in ("echostream", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
            if spec.scheme != "native":  # nothing of its own is open there
                gc.collect()
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for sock in LEFT_SOCKETS:
            sock.close()
        for number in (*LEFT, *OPENED):
            os.close(number)
        for held in (LEFT_SOCKETS, LEFT, OPENED, ALIVE, TASKS):
            held.clear()
