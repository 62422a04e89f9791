"""A plugin whose entry module imports its library at once, and with it whatever that needs."""

from __future__ import annotations

import hypothesis

from plugins.testkit.tests.mutations.transport_native import LayeredTransport

__all__ = ["HeavyTransport"]


class HeavyTransport(LayeredTransport):
    """The library's version is all that it is used for."""

    library = hypothesis.__version__
