"""The loops by name and the installed transports, as for the kernel's own tests."""

from __future__ import annotations

from tests.conftest import dev_certificates, pytest_asyncio_loop_factories, transport

__all__ = ["dev_certificates", "pytest_asyncio_loop_factories", "transport"]
