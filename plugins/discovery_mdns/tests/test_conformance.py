"""The suite of the test kit, on loopback with real packets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from echostream_core.discovery import Announcement
from echostream_discovery_mdns.announcing import MdnsAnnouncement
from echostream_testkit import DiscoveryConformance
from plugins.discovery_mdns.tests.silencing import silence


class TestMdns(DiscoveryConformance):
    name = "mdns"
    options: ClassVar[Mapping[str, object]] = {"interfaces": "loopback", "probe_s": 0.12}
    patience_s = 5.0
    quiet_s = 0.5

    async def kill(self, announcement: Announcement) -> None:
        assert isinstance(announcement, MdnsAnnouncement)
        await silence(announcement)
