"""The plugin as the kernel sees it, and what it costs while it is not used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from echostream_core import Kernel
from echostream_core.errors import ConfigError, TransportError
from echostream_discovery_mdns import MdnsOptions, make_discovery


def test_the_kernel_finds_the_backend() -> None:
    spec = Kernel().discovery("mdns")
    assert (spec.name, spec.options, spec.factory) == ("mdns", MdnsOptions, make_discovery)


def test_a_backend_that_is_made_and_not_used_loads_no_zeroconf_and_opens_no_socket() -> None:
    program = """
import asyncio, os, sys
from echostream_core.kernel import Kernel

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is no fault of ours
    before = len(os.listdir("/dev/fd"))
    spec = Kernel().discovery("mdns")
    backend = spec.factory(spec.options())
    assert "zeroconf" not in sys.modules and "ifaddr" not in sys.modules
    assert len(os.listdir("/dev/fd")) == before
    await backend.close()

asyncio.run(main())
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_an_unknown_interface_is_told_at_the_first_use() -> None:
    backend = make_discovery(MdnsOptions(interfaces=["no-such-0"]))
    with pytest.raises(ConfigError, match=r"no interface 'no-such-0'; this machine has .*127\.0\.0\.1"):
        await anext(backend.watch())
    await backend.close()


async def test_a_port_that_somebody_keeps_to_himself_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    from echostream_discovery_mdns import _zeroconf

    def taken(**how: object) -> object:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(_zeroconf, "AsyncZeroconf", taken)
    backend = make_discovery(MdnsOptions(interfaces="loopback"))
    for _ in range(2):
        with pytest.raises(TransportError, match="disallow-other-stacks=no") as caught:
            await anext(backend.watch())
        assert isinstance(caught.value.__cause__, OSError)
    await backend.close()
