"""Every asynchronous test runs on asyncio's own loop and, where it is installed, on uvloop."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme

from echostream_core.types import Url
from plugins.tcp.tests.recording import Ends, LogLines, Recorder, connect
from tests.support.loops import LoopFactory, real_loops


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The loops, by name."""
    return real_loops(item)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: a socket's has 107 bytes at most, which pytest's own folders exceed."""
    path = Path(tempfile.mkdtemp(prefix="es"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def development_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own development certificate out of the tests."""
    monkeypatch.setenv("ECHOSTREAM_DEV_DIR", str(folder / "dev"))


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
        leaf.cert_chain_pems[0].write_to_path(str(certificate))
        for more in leaf.cert_chain_pems[1:]:
            more.write_to_path(str(certificate), append=True)
        leaf.private_key_pem.write_to_path(str(key))
        return {"certificate": str(certificate), "private_key": str(key)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of this test's own."""
    return Authority(tmp_path)


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    """Another one."""
    folder = tmp_path / "other"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture(params=["tcp", "tls", "unix"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Each scheme in turn."""
    return str(request.param)


@pytest.fixture
def url(scheme: str, folder: Path) -> Url:
    """An address to listen at."""
    return Url.parse(f"unix://{folder}/a.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0")


@pytest.fixture
def options(scheme: str) -> dict[str, object]:
    """Options with which the two ends of a scheme understand each other."""
    return {"tls": {"dev": True}} if scheme == "tls" else {}


@pytest.fixture
async def ends(url: Url, options: dict[str, object]) -> AsyncIterator[Ends]:
    """Two connected pipes; at the end the rules that hold for every recorder are checked."""
    async with AsyncExitStack() as stack:
        ends = await connect(url, options, stack)
        yield ends
        for recorder in (ends.near, ends.far):
            if isinstance(recorder, Recorder):
                recorder.check_rules()


@pytest.fixture
def log() -> Iterator[LogLines]:
    """What the plugin logs."""
    lines = LogLines()
    logger = logging.getLogger("echostream.tcp")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


@pytest.fixture
def noise(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What others have logged, asyncio's tracebacks for instance: a user should see none of it."""
    return lambda: [
        f"{record.name}: {record.getMessage()}" for record in caplog.records if record.name != "echostream.tcp"
    ]
