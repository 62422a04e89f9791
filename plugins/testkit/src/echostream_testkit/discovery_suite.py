"""The suite that certifies a discovery backend.

::

    class TestMdns(DiscoveryConformance):
        name = "mdns"
        options = {"interfaces": ["127.0.0.1"]}
        quiet_s = 1.5

Two backend objects stand for two processes. Times are class attributes, so that a slow medium passes too.
"""

from __future__ import annotations

from echostream_core.discovery import Discovery
from echostream_testkit.discovery_announcing import Announcing
from echostream_testkit.discovery_watching import Watching
from echostream_testkit.spec_checks import async_checks

__all__ = ["DiscoveryConformance"]


@async_checks
class DiscoveryConformance(Watching, Announcing):
    """Derive a ``Test…`` class and give it the ``name`` of an installed backend, and ``options`` if it needs any.

    Override ``kill`` where an announcer can be made to vanish; set ``patience_s`` and ``quiet_s`` for a slow medium.
    """

    async def test_the_backend_is_what_its_spec_says(self) -> None:
        """The factory makes a Discovery, a new one each time, without waiting for anything."""
        async with self.backends() as (one, two):
            assert isinstance(one, Discovery), f"the factory answers a {type(one).__name__}: derive it from Discovery"
            assert one is not two, "one backend per endpoint: who closes his closes it for nobody else"
