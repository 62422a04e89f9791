"""Names of instances, as people give them and as DNS-SD carries them.

DNS-SD knows one instance name per service *type*, and all services of EchoStream share one type; a name of ours is
unique within its service only. So the label of an instance is ``SERVICE/INSTANCE``, which reads well in any browser.
Not every text makes a label: at most 63 bytes, no control character, and no dot either, which zeroconf would take for
the end of the label. What does not fit gets a label with a hash, and the TXT record tells its name in full.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from echostream_core.errors import ConfigError

__all__ = [
    "HOST_PREFIX",
    "MAX_LABEL_BYTES",
    "SERVICE_TYPE",
    "fits_label",
    "full_name",
    "instance_of",
    "label_of",
    "numbered",
]

SERVICE_TYPE: Final = "_echostream._udp.local."
"""RFC 6763 section 7 allows one type, with ``_tcp`` for what runs over TCP only and ``_udp`` for everything else. An
endpoint may listen with QUIC and TCP at once, so it is ``_udp``; the URLs say what is spoken."""

HOST_PREFIX: Final = "echostream-"
"""How the host names that we announce begin."""

MAX_LABEL_BYTES: Final = 63
"""Source: RFC 1035 section 2.3.4."""

_HASH_DIGITS: Final = 8
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f.]")


def fits_label(text: str) -> bool:
    """Whether ``text`` can be a label as it is."""
    return (
        0 < len(text.encode()) <= MAX_LABEL_BYTES
        and _UNFIT.search(text) is None
        and not text.startswith("_")  # zeroconf takes it for a part of the type
    )


def label_of(service: str, instance: str) -> str:
    """The label of an instance. ConfigError when a name is empty or no text that UTF-8 can carry."""
    for what, name in (("service", service), ("instance", instance)):
        if not name:
            raise ConfigError(f"an endpoint without a name of its {what} cannot be announced")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"the name of the {what} is no valid Unicode text: {ascii(name)[:80]}") from None
    text = f"{service}/{instance}"
    if fits_label(text):
        return text
    digest = hashlib.sha256(f"{service}\0{instance}".encode()).hexdigest()[:_HASH_DIGITS]
    readable = _UNFIT.sub("-", text).lstrip("_")
    cut = readable.encode()[: MAX_LABEL_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{cut}-{digest}"


def instance_of(label: str, service: str) -> str:
    """The instance's name in a label that carries it; of a foreign label all is the name."""
    own = f"{service}/"
    return label[len(own) :] if label.startswith(own) and len(label) > len(own) else label


def full_name(label: str) -> str:
    """The label as a DNS name."""
    return f"{label}.{SERVICE_TYPE}"


def numbered(instance: str, number: int) -> str:
    """What an instance is named when its name is taken: ``calc``, ``calc-2``, ``calc-3``."""
    return instance if number < 2 else f"{instance}-{number}"
