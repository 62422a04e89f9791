"""What tests of programs and plugins need from the kernel itself: a clock that does not wait, and a bare connection.

The suites that certify plugins stand in the distribution ``echostream-testkit``, the simulated network in
``echostream-sim``; both build on this.
"""

from echostream_core.testing.connections import as_connection
from echostream_core.testing.virtual_loop import Deadlock, VirtualLoop

__all__ = ["Deadlock", "VirtualLoop", "as_connection"]
