"""Every asynchronous test runs on asyncio's own loop and, where it is installed, on uvloop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme

from plugins.quic.tests.recording import Ends, LogLines, connect
from tests.support.loops import LoopFactory, real_loops


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The loops, by name."""
    return real_loops(item)


@pytest.fixture(autouse=True, scope="session")
def development_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own development certificate out of the tests; one pair serves them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSTREAM_DEV_DIR", str(tmp_path_factory.mktemp("certificates") / "dev"))
        yield


class Authority:
    """A certificate authority, and what it signs, as files."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.path = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, *names: str, **how: object) -> dict[str, str]:
        """``tls`` settings with a new certificate for ``names`` and its key."""
        leaf = self._ca.issue_cert(*names, **how)  # type: ignore[arg-type]  # what trustme takes
        certificate = self._folder / f"leaf{len(list(self._folder.iterdir()))}.pem"
        key = certificate.with_suffix(".key")
        for pem in leaf.cert_chain_pems:
            pem.write_to_path(str(certificate), append=True)
        leaf.private_key_pem.write_to_path(str(key))
        return {"certificate": str(certificate), "private_key": str(key)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of this test's own."""
    return Authority(tmp_path)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Two connected ends, the control substream open; afterwards the rules that hold for every recorder are checked."""
    async with AsyncExitStack() as stack:
        ends = await connect(stack)
        yield ends
        ends.check_rules()


@pytest.fixture
def log() -> Iterator[LogLines]:
    """What the plugin logs."""
    lines = LogLines()
    logger = logging.getLogger("echostream.quic")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)
