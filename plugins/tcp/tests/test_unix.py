"""Unix sockets: the file, who may connect, and who the peer is."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.types import Url
from echostream_tcp._errors import connect_failed
from echostream_tcp.options import UnixOptions
from plugins.tcp.tests.recording import Recorder, connect, dial, listen


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test leaves open."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "my.sock"


@pytest.fixture
def url(path: Path) -> Url:
    return Url.parse(f"unix://{path}")


def leave_stale(path: Path) -> None:
    """A socket file that nobody listens at, as a killed server leaves it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


async def test_the_system_tells_who_is_at_either_end(url: Url, stack: AsyncExitStack) -> None:
    ends = await connect(url, {}, stack)
    assert ends.near.pipe.peer_identity == ends.far.pipe.peer_identity == f"uid:{os.getuid()}"
    assert ends.near.pipe.capabilities.peer_identity
    assert ends.listener.addresses == (str(url),)


async def test_the_file_is_ours_alone_unless_said_otherwise(url: Url, path: Path, stack: AsyncExitStack) -> None:
    listener = await listen(url, {}, stack)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await listener.close()
    await listen(url, {"mode": 0o660}, stack)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_decimal_permissions_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="mode must be octal permissions such as 0o600 or 0o660, not 660"):
        msgspec.convert({"mode": 660}, UnixOptions)


async def test_the_file_is_removed_when_the_listener_closes(url: Url, path: Path, stack: AsyncExitStack) -> None:
    ends = await connect(url, {}, stack)
    await ends.listener.close()
    assert not path.exists()
    ends.near.write(b"still here")
    assert await ends.far.received(10) == b"still here"


async def test_a_file_that_another_has_put_there_is_not_removed(url: Url, path: Path, stack: AsyncExitStack) -> None:
    listener = await listen(url, {}, stack)
    path.rename(path.with_suffix(".old"))
    leave_stale(path)
    await listener.close()
    assert path.exists()


async def test_what_a_killed_server_left_is_replaced(url: Url, path: Path, stack: AsyncExitStack) -> None:
    leave_stale(path)
    with pytest.raises(ConnectFailed) as caught:
        await dial(url, {})
    assert str(caught.value) == f"nobody listens at {url}; is the server started?"
    ends = await connect(url, {}, stack)
    ends.near.write(b"x")
    await ends.far.received(1)


async def test_a_living_server_is_not_replaced(url: Url, stack: AsyncExitStack) -> None:
    ends = await connect(url, {}, stack)
    with pytest.raises(ConnectFailed) as caught:
        await listen(url, {}, stack)
    assert str(caught.value) == f"cannot listen at {url}: the address is in use; stop the program that has it"
    near = Recorder(await dial(url, {})).start()
    near.abort()
    await near.ended()
    ends.near.write(b"unharmed")
    await ends.far.received(8)


async def test_a_server_whose_queue_is_full_is_living(url: Url, path: Path, stack: AsyncExitStack) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConnectFailed, match="the address is in use"):
            await listen(url, {}, stack)


async def test_dialling_waits_for_a_server_whose_queue_is_full(url: Url, path: Path) -> None:
    import asyncio

    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        task = asyncio.create_task(dial(url, {}))
        await asyncio.sleep(0.05)  # nothing may happen
        assert not task.done()
        busy.accept()[0].close()
        near = Recorder(await task).start()
        busy.accept()[0].close()
        await near.ended()


async def test_a_file_that_is_no_socket_is_left_alone(url: Url, path: Path, stack: AsyncExitStack) -> None:
    path.write_text("precious")
    with pytest.raises(ConnectFailed, match="there is a file that is no socket; move it away or choose another path"):
        await listen(url, {}, stack)
    assert path.read_text() == "precious"


async def test_a_missing_folder_is_told(folder: Path, stack: AsyncExitStack) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await listen(Url.parse(f"unix://{folder}/no/a.sock"), {}, stack)
    assert str(caught.value) == (
        f"cannot listen at unix://{folder}/no/a.sock: there is no folder {folder}/no; make it first"
    )


async def test_a_missing_socket_is_told(url: Url) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await dial(url, {})
    assert str(caught.value) == f"nobody listens at {url}: there is no such socket; is the server started?"


def test_missing_permission_is_told() -> None:
    error = connect_failed(Url.parse("unix:///run/a.sock"), [PermissionError(13, "Permission denied")])
    assert str(error) == (
        "unix:///run/a.sock: this user may not connect; the listener's option transport.unix.mode says who may"
    )


async def test_a_file_that_is_no_socket_cannot_be_dialled(url: Url, path: Path) -> None:
    path.write_text("")
    with pytest.raises(ConnectFailed, match=r"nobody listens at|is not a stream socket"):
        await dial(url, {})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("unix://run/a.sock", "write unix:// and the absolute path, three slashes in all: unix:///run/my.sock"),
        ("unix://", "the path of a socket is missing; write unix:///run/my.sock"),
        ("unix:///run/", "the path of a socket is missing"),
        ("unix:///a%00b", "the path of a socket is missing"),
        (f"unix:///{'x' * 107}", "the path has 108 bytes; the system takes 107 for a socket"),
    ],
)
async def test_a_wrong_url_is_told(url: str, said: str, stack: AsyncExitStack) -> None:
    for go in (listen(Url.parse(url), {}, stack), dial(url, {})):
        with pytest.raises(ConfigError, match=said):
            await go
