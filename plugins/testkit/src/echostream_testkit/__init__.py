"""Conformance suites for EchoStream plugins, and the pytest plugin that runs them.

Opt in with ``pytest_plugins = ["echostream_testkit"]`` in the root ``conftest.py``. The suites are imported when they
are first asked for: a project that certifies a codec does not load the transports' suite.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from echostream_testkit.checks import SUITE_VERSION, capability
from echostream_testkit.plugin import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_makereport,
)

if TYPE_CHECKING:
    from echostream_testkit.codec_suite import CodecConformance
    from echostream_testkit.discovery_suite import DiscoveryConformance
    from echostream_testkit.middleware_suite import MiddlewareConformance
    from echostream_testkit.transport import TransportConformance

__all__ = [
    "SUITE_VERSION",
    "CodecConformance",
    "DiscoveryConformance",
    "MiddlewareConformance",
    "TransportConformance",
    "capability",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_makereport",
]

_SUITES = {
    "CodecConformance": "echostream_testkit.codec_suite",
    "DiscoveryConformance": "echostream_testkit.discovery_suite",
    "MiddlewareConformance": "echostream_testkit.middleware_suite",
    "TransportConformance": "echostream_testkit.transport",
}


def __getattr__(name: str) -> object:
    if name in _SUITES:
        return getattr(import_module(_SUITES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
