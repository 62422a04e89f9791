"""Encryption: nobody on the way can read what travels, and the listener is who it should be."""

from __future__ import annotations

import random
from typing import Final

import msgspec

from echostream_core.errors import ConnectFailed
from echostream_core.options import struct_in
from echostream_core.tls_options import TlsOptions
from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.relay import Relay
from echostream_testkit.transport.stage import Stage, descriptors
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["SecrecyChecks"]

_MARKER: Final = random.Random(6).randbytes(24).hex().encode()
_WRONG_PIN: Final = "sha256:" + "0" * 64


class SecrecyChecks(TransportSubject):
    """The flag ``encrypted``."""

    @capability("encrypted")
    @staged
    async def test_encrypted_hides_what_travels(self, stage: Stage) -> None:
        """A marker that is sent both ways is not on the wire; without a wire no socket is used at all."""
        if not self.claims("wire"):
            before = descriptors()
            await _send_marker(stage, None)
            assert descriptors() <= before, "there is said to be no wire, and yet sockets were opened"
            return
        relay = await stage.relay()
        await _send_marker(stage, relay)
        for direction, seen in relay.seen.items():
            assert len(seen) >= len(_MARKER), f"nothing went through the relay ({direction})"
            assert _MARKER not in seen, f"the marker is readable on the wire ({direction})"

    @capability("encrypted")
    @staged
    async def test_encrypted_verifies_the_listener(self, stage: Stage) -> None:
        """A dialer that expects another listener is refused with ConnectFailed, and no connection is left."""
        if not self.claims("wire"):
            await stage.refused(stage.dial(await stage.nobody_listens()), ConnectFailed, "dialling a name of nobody")
            return
        types = {field.encode_name: field.type for field in msgspec.structs.fields(self.spec().options)}
        assert struct_in(types.get("tls")) is TlsOptions, (
            "encrypted transports take the common TLS settings: give the options a field tls: TlsOptions"
        )
        listener = await stage.listen()
        settings = {key: value for key, value in dict(self.section("dial").get("tls", {})).items() if key not in _TRUST}
        attempt = stage.dial(listener.addresses[0], tls={**settings, "pin": _WRONG_PIN})
        await stage.refused(attempt, ConnectFailed, "dialling with the pin of another certificate")

    @capability("encrypted", claimed=False)
    @needs("wire")
    @staged
    async def test_encrypted_absent_shows_what_travels(self, stage: Stage) -> None:
        """Without ``encrypted`` the marker is there for everybody to see: the record is not modest for nothing."""
        relay = await stage.relay()
        await _send_marker(stage, relay)
        assert all(_MARKER in seen for seen in relay.seen.values()), "not claimed, and yet the marker is not readable"


_TRUST: Final = frozenset({"dev", "ca", "pin"})


async def _send_marker(stage: Stage, relay: Relay | None) -> None:
    """Send the marker up and down: on the control substream, in a datagram, or else as the reason of a close."""
    pair = await stage.pair(relay=relay)
    claims = stage.subject.claims
    for sender, receiver in ((pair.near, pair.far), (pair.far, pair.near)):
        if sender.control is not None and receiver.control is not None:
            size = len(receiver.control.data)
            sender.control.write(_MARKER)
            await stage.received(receiver.control, size + len(_MARKER))
        elif claims("datagrams"):
            sender.send_datagram(_MARKER)
            await stage.datagram(receiver)
        else:
            near, far = await stage.connect(relay.address if relay is not None else pair.listener.addresses[0])
            closing, told = (near, far) if sender is pair.near else (far, near)
            closing.close(0, _MARKER.decode())
            await stage.closed(told)
