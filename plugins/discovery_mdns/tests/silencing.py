"""How an announcer vanishes without a goodbye, within a process that goes on."""

from __future__ import annotations

import asyncio

from echostream_discovery_mdns.announcing import MdnsAnnouncement

__all__ = ["silence"]


async def silence(announcement: MdnsAnnouncement) -> None:
    """Close the sockets of the announcement's backend: nothing is sent or answered from here on."""
    engine = announcement._owner.engine
    zeroconf = engine._zeroconf
    zeroconf.done = True  # else the library would write to closed sockets when the backend is closed
    for reader in zeroconf.engine.readers:
        reader.transport.close()
    await asyncio.sleep(0)
