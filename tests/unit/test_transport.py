"""The transport contract: what its base classes give to everyone who implements it."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from echostream_core import Capabilities, CapabilityError, Url
from echostream_core import transport as contract
from echostream_core.builtin.memory import MemoryOptions, MemoryTransport
from echostream_core.transport import Connection, NoOptions, Pipe, Substream, Transport, TransportSpec


class Bare(Connection):
    """A connection that does nothing of its own."""

    capabilities = Capabilities()
    peer_address = "bare://peer"
    local_address = "bare://here"

    def start(self, receiver: object) -> None: ...

    def open_substream(self, priority: object = None) -> Substream:
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None: ...


def test_a_connection_without_datagrams_says_so() -> None:
    bare = Bare()
    with pytest.raises(CapabilityError, match="bare://peer: no datagrams") as caught:
        bare.send_datagram([b"x"])
    assert caught.value.capability == "datagrams"
    assert bare.max_datagram_size() == 0
    assert bare.peer_identity is None


@pytest.mark.parametrize("kind", [Connection, Pipe, Substream, Transport, contract.Listener])
def test_the_abstract_classes_cannot_be_made(kind: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind()


def test_what_is_configured_is_all_of_it_by_default() -> None:
    record = Capabilities(streams="native", encrypted=True)
    assert MemoryTransport().configured(MemoryOptions(), record) == record


def test_a_spec_says_least_by_default() -> None:
    spec = TransportSpec(scheme="x", factory=MemoryTransport, capabilities=Capabilities())
    assert spec.options is NoOptions
    assert spec.summary == ""
    assert spec.notes == {}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"anything": 1}, NoOptions)


def test_every_method_of_the_contract_is_documented() -> None:
    for name in contract.__all__:
        item = getattr(contract, name)
        if not inspect.isclass(item):
            continue
        assert item.__doc__, name
        for method, function in vars(item).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert function.__doc__, f"{name}.{method}"


async def test_a_transport_is_made_by_the_kernel_and_listens() -> None:
    transport = MemoryTransport()
    listener = await transport.listen(Url.parse("memory://contract"), MemoryOptions(), lambda made: None)
    assert listener.addresses == ("memory://contract",)
    await listener.close()
    await listener.close()
