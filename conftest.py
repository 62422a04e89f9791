"""The conformance suites' pytest plugin for every test of the repository, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

pytest_plugins = ["pytester"]

if find_spec("echostream_testkit") is not None:
    pytest_plugins.append("echostream_testkit")
