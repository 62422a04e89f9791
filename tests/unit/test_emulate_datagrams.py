"""The option ``emulate_datagrams``: what a configuration may need, and what connecting waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from echostream_core import Capabilities, ConfigError, ConnectFailed, Kernel, RpcClient, RpcServer, hookimpl
from echostream_core.config import load_config
from echostream_core.transport import Acceptor, Listener, Transport, TransportSpec
from echostream_core.types import Url
from tests.unit.test_muxed import FakePipe

LOOPS = ("virtual",)


class Silent(Transport):
    """Its connections are pipes from which nothing ever comes."""

    pipes: list[FakePipe]

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        raise NotImplementedError

    async def dial(self, url: Url, options: msgspec.Struct) -> FakePipe:
        self.pipes.append(FakePipe(negotiated=True))
        return self.pipes[-1]


class Plugin:
    """Offers ``silent``."""

    def __init__(self) -> None:
        self.pipes: list[FakePipe] = []

    def _make(self) -> Silent:
        transport = Silent()
        transport.pipes = self.pipes
        return transport

    @hookimpl
    def echostream_transports(self) -> Sequence[TransportSpec]:
        return [TransportSpec(scheme="silent", factory=self._make, capabilities=Capabilities(streams="muxed"))]


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest.fixture
def kernel(plugin: Plugin) -> Kernel:
    kernel = Kernel()
    kernel.register(plugin, name="test plugin")
    return kernel


@pytest.mark.parametrize("section", ["server.s", "client.c"])
def test_a_need_for_datagrams_over_a_pipe_is_met_by_the_option_and_one_for_native_ones_is_not(
    kernel: Kernel, section: str
) -> None:
    settings: dict[str, object] = {f"{section}.{'listen' if section == 'server.s' else 'url'}": "silent://h"}

    def problems(**changes: object) -> list[str]:
        more = {f"{section}.{key}": value for key, value in changes.items()}
        return load_config(environ={}, overrides=settings | more).check(kernel)

    assert problems(require="datagrams", emulate_datagrams=True) == []
    assert problems(require="datagrams=emulated", emulate_datagrams=True) == []
    (found,) = problems(require="datagrams")
    assert found.endswith("require: datagrams is not met by the transport 'silent'")
    (found,) = problems(require="datagrams=native", emulate_datagrams=True)
    assert found.endswith("require: datagrams=native is not met by the transport 'silent'")
    with pytest.raises(ConfigError, match="emulate_datagrams: expected `bool`"):
        problems(emulate_datagrams="yes")


def test_endpoints_check_the_same_need(kernel: Kernel) -> None:
    for native in (True, False):
        need = "datagrams=native" if native else "datagrams"
        with pytest.raises(ConfigError, match=f"silent:// cannot do {need}"):
            RpcServer("silent://h", require=[need], emulate_datagrams=native, kernel=kernel)
    RpcServer("silent://h", require=["datagrams"], emulate_datagrams=True, kernel=kernel)


async def test_connecting_waits_for_setup_but_not_for_ever(kernel: Kernel, plugin: Plugin) -> None:
    begun = asyncio.get_running_loop().time()
    with pytest.raises(ConnectFailed, match="silent://h: the peer's SETUP did not come in time"):
        await RpcClient.connect("silent://h", emulate_datagrams=True, connect_timeout=3, kernel=kernel)
    assert asyncio.get_running_loop().time() - begun == 3
    assert plugin.pipes[0].log == ["abort"]


async def test_connecting_waits_for_nothing_without_the_option(kernel: Kernel, plugin: Plugin) -> None:
    client = await RpcClient.connect("silent://h", reconnect=False, kernel=kernel)
    client.session.abort()
    plugin.pipes[0].end(None)
    await client.close()


async def test_connecting_that_is_cancelled_while_it_waits_leaves_nothing_behind(
    kernel: Kernel, plugin: Plugin
) -> None:
    connecting = asyncio.create_task(
        RpcClient.connect("silent://h", emulate_datagrams=True, kernel=kernel).__aenter__()
    )
    await asyncio.sleep(1)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert plugin.pipes[0].log == ["abort"]
    plugin.pipes[0].end(None)


async def test_a_connection_that_is_lost_while_connecting_waits_is_no_error_of_its_own(
    kernel: Kernel, plugin: Plugin
) -> None:
    connecting = asyncio.create_task(
        RpcClient.connect("silent://h", emulate_datagrams=True, reconnect=False, kernel=kernel).__aenter__()
    )
    await asyncio.sleep(1)
    plugin.pipes[0].end(None)
    client = await connecting
    assert not client.connected
    await client.close()
