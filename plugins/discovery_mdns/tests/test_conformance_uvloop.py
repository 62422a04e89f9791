"""The suite of the test kit once more, on uvloop."""

from __future__ import annotations

import pytest

from plugins.discovery_mdns.tests import test_conformance

LOOPS = ("uvloop",)

pytestmark = pytest.mark.slow


class TestMdnsOnUvloop(test_conformance.TestMdns):
    pass
