"""The conformance suite, on the virtual clock."""

from __future__ import annotations

from echostream_sim import SimLoop
from echostream_testkit import TransportConformance


class TestSim(TransportConformance):
    """Over a perfect network: what a bad one does is in ``test_transport.py``."""

    url = "sim://server:0"
    loop_factory = SimLoop
