"""Which peers there are, what each needs, and whether it is installed here."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["PEERS", "PeerSpec", "installed_versions", "select_peers"]

UVLOOP: Final = {"uvloop": "uvloop"}
OURS: Final = {**UVLOOP, "echostream-core": "-e .", "echostream-codec-msgpack": "-e plugins/codec_msgpack"}


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """How to run one peer; ``needs`` says for each distribution what to install."""

    name: str
    module: str
    needs: Mapping[str, str]
    variant: str = ""
    in_process: bool = False
    """Client and server share one process: no server is started, and its memory cannot be told apart."""
    quic: bool = False

    def missing(self) -> str | None:
        """Say what to install, or None when everything is there."""
        absent = [install for name, install in self.needs.items() if _version(name) is None]
        return f"not installed: pip install {' '.join(absent)}" if absent else None


PEERS: Final[dict[str, PeerSpec]] = {
    spec.name: spec
    for spec in (
        PeerSpec("raw_asyncio", "peer_raw_asyncio", UVLOOP),
        PeerSpec("grpc_aio", "peer_grpc_aio", {**UVLOOP, "grpcio": "grpcio"}),
        PeerSpec("websockets", "peer_websockets", {**UVLOOP, "websockets": "websockets"}),
        PeerSpec(
            "socketio",
            "peer_socketio",
            {**UVLOOP, "python-socketio": "python-socketio", "aiohttp": "aiohttp", "uvicorn": "uvicorn"},
        ),
        PeerSpec(
            "aioquic_stock",
            "peer_aioquic_stock",
            {**UVLOOP, "aioquic": "aioquic", "cryptography": "cryptography"},
            quic=True,
        ),
        PeerSpec("echostream_memory", "peer_echostream", OURS, variant="memory", in_process=True),
        PeerSpec("echostream_tcp", "peer_echostream", {**OURS, "echostream-tcp": "-e plugins/tcp"}, variant="tcp"),
        PeerSpec("echostream_unix", "peer_echostream", {**OURS, "echostream-tcp": "-e plugins/tcp"}, variant="unix"),
        PeerSpec(
            "echostream_ws",
            "peer_echostream",
            {**OURS, "echostream-tcp": "-e plugins/tcp", "echostream-websocket": "-e plugins/websocket"},
            variant="ws",
        ),
        PeerSpec(
            "echostream_quic",
            "peer_echostream",
            {**OURS, "echostream-quic": "-e plugins/quic", "echostream-certs": "-e plugins/certs"},
            variant="quic",
            quic=True,
        ),
        PeerSpec(
            "echostream_wt",
            "peer_echostream",
            {
                **OURS,
                "echostream-quic": "-e plugins/quic",
                "echostream-webtransport": "-e plugins/webtransport",
                "echostream-certs": "-e plugins/certs",
            },
            variant="wt",
            quic=True,
        ),
    )
}

REPORTED: Final = (
    "echostream-core",
    "echostream-tcp",
    "echostream-websocket",
    "echostream-quic",
    "echostream-webtransport",
    "echostream-codec-msgpack",
)
REPORTED_LIBRARIES: Final = (
    "uvloop",
    "grpcio",
    "aioquic",
    "cryptography",
    "msgpack",
    "msgspec",
    "ormsgpack",
    "websockets",
    "python-socketio",
)


def select_peers(names: list[str]) -> tuple[str, ...]:
    """Turn what a user typed into peers, in the catalogue's order; ``echostream`` stands for all of ours.

    Raises ValueError with the known names when one is unknown.
    """
    chosen: set[str] = set()
    for name in names:
        matching = {known for known in PEERS if known == name or known.startswith(f"{name}_")}
        if not matching:
            raise ValueError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
        chosen |= matching
    return tuple(name for name in PEERS if name in chosen)


def installed_versions() -> dict[str, str]:
    """Versions of every distribution that may influence a figure, absent ones left out."""
    found = {name: _version(name) for name in (*REPORTED_LIBRARIES, *REPORTED)}
    return {name: version for name, version in found.items() if version is not None}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
