"""A simulated network for EchoStream, and the plugin's hooks: the transport ``sim``."""

from __future__ import annotations

from collections.abc import Sequence

from echostream_core.hookspecs import hookimpl
from echostream_core.testing import Deadlock
from echostream_core.transport import TransportSpec
from echostream_sim.certificates import fixed_certificate
from echostream_sim.clocks import Clock
from echostream_sim.delay import Exponential, LogNormal, Normal, Trace, Uniform
from echostream_sim.entropy import seeded
from echostream_sim.hosts import Host, Port
from echostream_sim.loop import SimLoop, simulate
from echostream_sim.loss import Chosen, GilbertElliott, GilbertElliottTime, Random
from echostream_sim.mahimahi import MahimahiTrace
from echostream_sim.network import Network
from echostream_sim.options import SimOptions
from echostream_sim.paths import Path
from echostream_sim.recorder import Event, Recorder
from echostream_sim.transport import SPEC

__all__ = [
    "Chosen",
    "Clock",
    "Deadlock",
    "Event",
    "Exponential",
    "GilbertElliott",
    "GilbertElliottTime",
    "Host",
    "LogNormal",
    "MahimahiTrace",
    "Network",
    "Normal",
    "Path",
    "Port",
    "Random",
    "Recorder",
    "SimLoop",
    "SimOptions",
    "Trace",
    "Uniform",
    "echostream_transports",
    "fixed_certificate",
    "seeded",
    "simulate",
]


@hookimpl
def echostream_transports() -> Sequence[TransportSpec]:
    """Offer ``sim``."""
    return [SPEC]
