"""The TLS settings that every encrypted transport understands: one mapping in code and in TOML."""

from __future__ import annotations

import re

import msgspec

from echostream_core.errors import ConfigError

__all__ = ["TlsOptions", "parse_pin"]


class TlsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``tls.*`` of a transport's section, and the ``tls={...}`` argument of servers and clients.

    Verification is on by default: a client without ``ca``, ``pin`` or ``dev`` uses the system's certificate store.
    """

    dev: bool = False
    """Use a self-signed certificate for this machine's user, made on first use and cached; the client pins it."""
    certificate: str = ""
    """Path of the PEM certificate chain that this end shows."""
    private_key: str = ""
    """Path of the PEM private key for ``certificate``."""
    ca: str = ""
    """Path of the PEM certificates that a dialer trusts instead of the system's."""
    client_ca: str = ""
    """Path of the PEM certificates that a listener demands client certificates from."""
    pin: str = ""
    """``sha256:<64 hex digits>`` of the peer's certificate (DER): exactly this one is accepted, by a dialer."""
    server_name: str = ""
    """The name that a dialer asks for and verifies, when it differs from the URL's host."""

    def check_listener(self, key: str) -> None:
        """ConfigError, naming ``key``, unless a listener can start with these settings."""
        if self.dev and (self.certificate or self.private_key):
            raise ConfigError(f"{key}.dev and {key}.certificate exclude each other: remove one", key=f"{key}.dev")
        if not self.dev and not self.certificate:
            raise ConfigError(
                f"{key}.certificate is missing: set {key}.certificate and {key}.private_key, "
                f"or {key}.dev = true for a self-signed development certificate",
                key=f"{key}.certificate",
            )
        if self.certificate and not self.private_key:
            raise ConfigError(f"{key}.private_key is missing: the key of {key}.certificate", key=f"{key}.private_key")

    def check_dialer(self, key: str) -> None:
        """ConfigError, naming ``key``, unless a dialer can start with these settings."""
        chosen = [name for name in ("dev", "pin", "ca") if getattr(self, name)]
        if len(chosen) > 1:
            raise ConfigError(
                f"{key}.{chosen[0]} and {key}.{chosen[1]} exclude each other: remove one",
                key=f"{key}.{chosen[0]}",
            )
        if self.pin:
            parse_pin(self.pin, key=f"{key}.pin")


def parse_pin(pin: str, *, key: str = "tls.pin") -> bytes:
    """The 32 bytes of a pin ``sha256:<hex>``; ConfigError otherwise. Colons between the hex digits are allowed."""
    algorithm, _, digits = pin.partition(":")
    digits = digits.replace(":", "")
    if algorithm != "sha256" or not re.fullmatch("[0-9a-fA-F]{64}", digits):
        raise ConfigError(f"{key} must be sha256: and 64 hex digits, not {pin[:80]!r}", key=key)
    return bytes.fromhex(digits)
