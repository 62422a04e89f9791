"""The conformance suites' pytest plugin for every test of the repository, where it is installed."""

from __future__ import annotations

import signal
from importlib.util import find_spec

pytest_plugins = ["pytester"]

if find_spec("echostream_testkit") is not None:
    pytest_plugins.append("echostream_testkit")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background so, and every program that a test starts would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
