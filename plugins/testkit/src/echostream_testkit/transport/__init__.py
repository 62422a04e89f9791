"""The suite for transports: one class and a URL certify a plugin.

Each module tells one story of the contract in ``echostream_core/transport.py``; the suite is all of them.
"""

from __future__ import annotations

from echostream_testkit.transport.addresses import AddressChecks
from echostream_testkit.transport.callbacks import CallbackChecks
from echostream_testkit.transport.closing import ClosingChecks
from echostream_testkit.transport.credit import CreditChecks
from echostream_testkit.transport.datagrams import DatagramChecks
from echostream_testkit.transport.describing import DescriptionChecks
from echostream_testkit.transport.dialling import DialChecks
from echostream_testkit.transport.draining import DrainingChecks
from echostream_testkit.transport.full_stack import FullStackChecks
from echostream_testkit.transport.half_close import HalfCloseChecks
from echostream_testkit.transport.hosting import HostingChecks
from echostream_testkit.transport.leaks import LeakChecks
from echostream_testkit.transport.negotiated import NegotiatedChecks
from echostream_testkit.transport.paths import PathChecks
from echostream_testkit.transport.pipes import PipeChecks
from echostream_testkit.transport.priorities import PriorityChecks
from echostream_testkit.transport.reset import ResetChecks
from echostream_testkit.transport.secrecy import SecrecyChecks
from echostream_testkit.transport.stage import Pair, Stage
from echostream_testkit.transport.subject import Carrier, TransportSubject, staged
from echostream_testkit.transport.substreams import SubstreamChecks

__all__ = ["Carrier", "Pair", "Stage", "TransportConformance", "TransportSubject", "staged"]


class TransportConformance(
    DescriptionChecks,
    AddressChecks,
    DialChecks,
    NegotiatedChecks,
    PipeChecks,
    SubstreamChecks,
    HalfCloseChecks,
    ResetChecks,
    CreditChecks,
    PriorityChecks,
    DatagramChecks,
    SecrecyChecks,
    PathChecks,
    HostingChecks,
    CallbackChecks,
    ClosingChecks,
    DrainingChecks,
    LeakChecks,
    FullStackChecks,
):
    """Derive from it, say ``url`` and ``options``, and pytest runs every check that applies.

    Which ones do is read from the configured capability record: the one that the kernel reads at run time.
    """
