"""examples/file_transfer: files arrive as they were, also when the server dies on the way, and nothing gets out."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import Kernel, RemoteError, RpcClient, RpcServer, StatusCode, Stream
from examples.file_transfer.cli import main
from examples.file_transfer.landing import InUse, Landing
from examples.file_transfer.protocol import CHUNK_BYTES, Description, Download, Upload
from examples.file_transfer.service import FileService
from examples.file_transfer.transfer import Outcome, Transfer
from tests.e2e.processes import PATIENCE_S, Program, finished, running
from tests.support.pairs import memory_url

ROOT = Path(__file__).resolve().parents[2]
SCHEMES = [scheme for scheme in ("tcp", "quic", "unix") if scheme in Kernel().known("transport")]
SIZE = 12 * 1024 * 1024 + 12_345
MAX_WINDOW = 1_048_576
needs_tcp = pytest.mark.skipif("tcp" not in SCHEMES, reason="needs echostream-tcp")
ENVIRON = {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def folder(dev_certificates: Path) -> Iterator[Path]:
    """Not tmp_path: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def command(*arguments: object) -> list[str]:
    return ["-m", "examples.file_transfer", *map(str, arguments)]


def url_of(scheme: str, folder: Path) -> str:
    return f"unix://{folder}/files.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0"


def tls_of(scheme: str) -> list[str]:
    return ["--dev-tls"] if scheme == "quic" else []


def configuration(folder: Path) -> Path:
    """A client that notices a dead server sooner than the default does."""
    file = folder / "client.toml"
    limits = "{ keepalive_interval_s = 1.5, keepalive_timeout_s = 1.5 }"
    file.write_text(f"[client.files]\nurl = 'memory://set-by-the-command'\nlimits = {limits}\n", encoding="utf-8")
    return file


def some_file(folder: Path, name: str = "some.bin", size: int = SIZE) -> Path:
    file = folder / name
    file.write_bytes(os.urandom(size))
    return file


def partial(folder: Path) -> Path | None:
    return next(iter(folder.glob(".*.part")), None)


def wait_for_bytes(folder: Path, least: int, program: Program) -> None:
    """Until the unfinished file in ``folder`` has so many bytes."""
    patience = time.monotonic() + PATIENCE_S
    while (file := partial(folder)) is None or file.stat().st_size < least:
        assert program.process.poll() is None, program.errors()
        assert time.monotonic() < patience, program.errors()
        time.sleep(0.005)


def address_of(server: Program) -> str:
    return server.line().rpartition(" on ")[2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_upload_survives_the_death_of_the_server(scheme: str, folder: Path) -> None:
    file, store, tls = some_file(folder), folder / "store", tls_of(scheme)
    with running(
        command("serve", url_of(scheme, folder), "--directory", store, *tls), folder, environ=ENVIRON
    ) as first:
        url = address_of(first)
        sending = command("upload", url, file, "--config", configuration(folder), "--limit-rate", "12M", "--json", *tls)
        with running(sending, folder, environ=ENVIRON) as client:
            wait_for_bytes(store, SIZE // 4, client)
            first.send(signal.SIGKILL)
            first.status()
            unfinished = partial(store)
            assert unfinished is not None
            stored = unfinished.stat().st_size
            assert not (store / file.name).exists()
            with running(command("serve", url, "--directory", store, *tls), folder, environ=ENVIRON):
                (line,) = client.rest()
                assert client.status() == 0, client.errors()
    result = json.loads(line)
    assert (store / file.name).read_bytes() == file.read_bytes()
    assert result["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    begun, *again = result["began_at"]
    assert begun == 0
    assert stored in again, "it goes on at the last byte that was written"
    assert result["moved"] == SIZE + result["twice"]
    assert 0 <= result["twice"] <= len(again) * (MAX_WINDOW + 3 * CHUNK_BYTES), "what was on its way, and no more"
    assert sorted(path.name for path in store.iterdir()) == [file.name]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_download_survives_the_death_of_the_server(scheme: str, folder: Path) -> None:
    store, here, tls = folder / "store", folder / "here", tls_of(scheme)
    store.mkdir()
    here.mkdir()
    file = some_file(store)
    serving = ["--directory", store, *tls]
    with running(command("serve", url_of(scheme, folder), *serving), folder, environ=ENVIRON) as first:
        url = address_of(first)
        fetching = command("download", url, file.name, "--to", here, "--limit-rate", "12M", "--json", *tls)
        fetching += ["--config", str(configuration(folder))]
        with running(fetching, folder, environ=ENVIRON) as client:
            wait_for_bytes(here, SIZE // 4, client)
            first.send(signal.SIGKILL)
            first.status()
            with running(command("serve", url, *serving), folder, environ=ENVIRON):
                (line,) = client.rest()
                assert client.status() == 0, client.errors()
    result = json.loads(line)
    assert (here / file.name).read_bytes() == file.read_bytes()
    begun, *again = result["began_at"]
    assert begun == 0
    assert max(again) >= SIZE // 4
    assert result["twice"] == 0, "whatever arrived was kept"
    assert [path.name for path in here.iterdir()] == [file.name]


@needs_tcp
def test_what_ctrl_c_has_interrupted_goes_on_with_the_same_command(folder: Path) -> None:
    file, store = some_file(folder), folder / "store"
    with running(command("serve", "tcp://127.0.0.1:0", "--directory", store), folder, environ=ENVIRON) as server:
        sending = command("upload", address_of(server), file, "--limit-rate", "12M", "--json")
        with running(sending, folder, environ=ENVIRON) as client:
            wait_for_bytes(store, SIZE // 4, client)
            client.send(signal.SIGINT)
            assert client.status() == 130
            assert "the same command goes on where this one stopped" in client.errors()
            assert "Traceback" not in client.errors()
        done = finished(sending, folder, environ=ENVIRON)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (began_at,) = result["began_at"]
    assert began_at >= SIZE // 4
    assert result["moved"] == SIZE - began_at
    assert (store / file.name).read_bytes() == file.read_bytes()


@needs_tcp
def test_several_files_at_once_and_one_of_them_is_refused(folder: Path) -> None:
    files = [some_file(folder, f"{number}.bin", 300_000 * number) for number in range(4)]
    store = folder / "store"
    store.mkdir()
    (store / "2.bin").write_bytes(b"another")
    with running(command("serve", "tcp://127.0.0.1:0", "--directory", store), folder, environ=ENVIRON) as server:
        url = address_of(server)
        done = finished(command("upload", url, *files, folder), folder, environ=ENVIRON)
        assert done.returncode == 1
        assert f"error: {folder}: {os.strerror(errno.EISDIR)}" in done.stderr
        assert len(done.stdout.splitlines()) == 3
        assert "error: 2.bin is there already, with other content: choose another name" in done.stderr
        assert (store / "2.bin").read_bytes() == b"another"
        assert finished(command("upload", url, files[2], "--overwrite"), folder, environ=ENVIRON).returncode == 0
        listed = finished(command("list", url, "--json"), folder, environ=ENVIRON)
        assert [json.loads(line)["size"] for line in listed.stdout.splitlines()] == [0, 300_000, 600_000, 900_000]
        names = [file.name for file in files]
        fetched = finished(command("download", url, *names, "--to", "here"), folder, environ=ENVIRON)
    assert fetched.returncode == 0, fetched.stderr
    assert [(folder / "here" / file.name).read_bytes() for file in files] == [file.read_bytes() for file in files]


@needs_tcp
def test_a_full_disk_is_a_sentence_and_the_upload_goes_on_later(folder: Path) -> None:
    """The server's process may write 1 MB to a file: to it, the disk is full there."""
    file, store = some_file(folder, size=3_000_000), folder / "store"
    limited = (
        "import resource, sys; from examples.file_transfer.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY)); sys.exit(main())"
    )
    serving = ["serve", "tcp://127.0.0.1:0", "--directory", str(store)]
    with running(["-c", limited, *serving], folder, environ=ENVIRON) as server:
        done = finished(command("upload", address_of(server), file), folder, environ=ENVIRON)
    assert done.returncode == 1
    assert "error: the server's disk is full: make room there, then send some.bin again" in done.stderr
    assert "Traceback" not in done.stderr + server.errors()
    with running(command(*serving), folder, environ=ENVIRON) as server:
        done = finished(command("upload", address_of(server), file, "--json"), folder, environ=ENVIRON)
    assert json.loads(done.stdout)["began_at"] == [1_000_000]
    assert (store / file.name).read_bytes() == file.read_bytes()


@needs_tcp
@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["upload", "tcp://127.0.0.1:1", "nowhere.bin"], 1, "error: "),
        (["list", "tcp://127.0.0.1:1"], 1, "error: "),
        (["list", "pigeon://127.0.0.1:1"], 1, "E-NO-PROVIDER"),
        (["list"], 2, "write a URL"),
        (["upload", "tcp://127.0.0.1:1"], 2, "write the files behind the URL"),
        (["upload", "memory://x", "a", "--limit-rate", "fast"], 2, "such as 500K or 2M"),
    ],
)
def test_what_goes_wrong_is_a_sentence(
    arguments: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(arguments) == status
    except SystemExit as end:  # argparse's way
        assert end.code == status
    errors = capsys.readouterr().err
    assert text in errors
    assert "Traceback" not in errors


# -- one process, both ends


class Quiet:
    """A line of progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def begin(self, doing: str, size: int, position: int = 0) -> None:
        pass

    def at(self, position: int) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[RpcClient]:
    """A client of a server that keeps its files in ``folder/store``."""
    files = FileService(folder / "store")
    files.prepare(7)
    async with (
        RpcServer(memory_url(), files, drain_timeout=0) as server,
        RpcClient.connect(server.addresses[0], reconnect=False) as client,
    ):
        yield client


async def send(client: RpcClient, file: Path, line: Quiet | None = None, **options: bool) -> Outcome:
    return await Transfer(client, line or Quiet()).upload(file, file.name, overwrite=options.get("overwrite", False))


def described(data: bytes, name: str = "some.bin", sender: str = "me") -> Upload:
    return Upload(name, len(data), hashlib.sha256(data).hexdigest(), sender)


async def answer(stream: Stream) -> object:
    """The last word of the server."""
    items = [item async for item in stream]
    return items[-1] if items else None


def kinds(error: RemoteError) -> list[str]:
    return [kind for kind, _ in error.details]


async def test_a_wrong_checksum_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    async with store(tmp_path) as client, client.open_stream("files.upload", described(data)) as stream:
        assert (await stream.recv())["stored"] == 0
        await stream.send(0)
        await stream.send(data[:-1] + bytes([data[-1] ^ 1]))
        await stream.end()
        with pytest.raises(RemoteError, match="send it again") as caught:
            await answer(stream)
    assert caught.value.code is StatusCode.DATA_LOSS
    assert kinds(caught.value) == ["WrongChecksum"]
    assert list((tmp_path / "store").iterdir()) == []


async def test_an_upload_that_ends_early_stays_for_the_next_attempt(tmp_path: Path) -> None:
    file = some_file(tmp_path, size=700_000)
    data = file.read_bytes()
    async with store(tmp_path) as client:
        async with client.open_stream("files.upload", described(data)) as stream:
            await stream.recv()
            await stream.send(0)
            await stream.send(data[:500_000])
            await stream.end()
            with pytest.raises(RemoteError, match="after 500000 of 700000 bytes"):
                await answer(stream)
        outcome = await send(client, file)
    assert outcome.began_at == [500_000]
    assert outcome.moved == 200_000


@pytest.mark.parametrize("side", ["upload", "download"])
async def test_a_damaged_beginning_is_found_before_more_is_added(side: str, tmp_path: Path) -> None:
    file = some_file(tmp_path, size=700_000)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    line = Quiet()
    async with store(tmp_path) as client:
        if side == "upload":
            (tmp_path / "store" / f".some.bin.{sha256[:16]}.part").write_bytes(bytes(300_000))
            outcome = await send(client, file, line)
        else:
            await send(client, file)
            (tmp_path / f".other.bin.{sha256[:16]}.part").write_bytes(bytes(300_000))
            outcome = await Transfer(client, line).download("some.bin", tmp_path / "other.bin", overwrite=False)
            assert (tmp_path / "other.bin").read_bytes() == file.read_bytes()
    assert outcome.began_at[-1] == 0
    assert any("damaged: beginning anew" in note for note in line.notes)
    assert (tmp_path / "store" / "some.bin").read_bytes() == file.read_bytes()


HOSTILE = ["../secret", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:secret", ".hidden", "x\x00y", "é" * 101]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_name_leads_out_of_the_directory(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden", encoding="utf-8")
    data = b"overwritten"
    wanted: dict[str, Any] = {"name": name, "sha256": "0" * 64}
    async with store(tmp_path) as client:
        with pytest.raises(RemoteError) as caught:
            await client.request("files.describe", name)
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
        for method, payload in (("files.download", wanted), ("files.upload", described(data, name))):
            async with client.open_stream(method, payload) as stream:
                with pytest.raises(RemoteError, match="is refused") as caught:
                    await stream.recv()
                assert kinds(caught.value) == ["NameRefused"]
    assert (tmp_path / "secret").read_text(encoding="utf-8") == "hidden"
    assert list((tmp_path / "store").iterdir()) == []


async def test_links_and_folders_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden", encoding="utf-8")
    async with store(tmp_path) as client:
        (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
        (tmp_path / "store" / "folder").mkdir()
        assert [file async for file in client.stream("files.list")] == []
        for name in ("link", "folder", "nothing"):
            with pytest.raises(RemoteError, match="there is no file") as caught:
                await client.request("files.describe", name)
            assert caught.value.code is StatusCode.NOT_FOUND


async def test_a_new_attempt_of_the_same_sender_replaces_the_one_that_hangs(tmp_path: Path) -> None:
    file = some_file(tmp_path, size=600_000)
    data = file.read_bytes()
    async with store(tmp_path) as client:
        transfer = Transfer(client, Quiet())
        hanging = await client.open_stream("files.upload", described(data, sender=transfer._sender))
        await hanging.recv()
        await hanging.send(0)
        await hanging.send(data[:400_000])
        assert await hanging.recv() == 400_000
        with pytest.raises(RemoteError, match="by another client") as caught:
            await send(client, file)
        assert kinds(caught.value) == ["InUse"]
        outcome = await transfer.upload(file, file.name, overwrite=False)
        with pytest.raises(RemoteError):
            await hanging.recv()
    assert outcome.began_at == [400_000]
    assert (tmp_path / "store" / file.name).read_bytes() == data


async def test_two_programs_do_not_write_one_file(tmp_path: Path) -> None:
    first = await Landing.open(tmp_path / "some.bin", 10, "0" * 64)
    await first.write(b"01234")
    with pytest.raises(InUse):
        await Landing.open(tmp_path / "some.bin", 10, "0" * 64)
    first.close()
    again = await Landing.open(tmp_path / "some.bin", 10, "0" * 64)
    assert again.stored == 5
    again.close()


async def test_a_file_that_has_changed_meanwhile_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    file = some_file(tmp_path, size=100_000)
    async with store(tmp_path) as client:
        await send(client, file)
        before = await client.request("files.describe", file.name, returns=Description)
        (tmp_path / "store" / file.name).write_bytes(b"another")
        wanted = Download(file.name, before.sha256)
        async with client.open_stream("files.download", wanted) as stream:
            with pytest.raises(RemoteError, match="has changed on the server") as caught:
                await stream.recv()
        assert kinds(caught.value) == ["Changed"]
        with pytest.raises(RemoteError, match="is there already, with other content"):
            await send(client, file)
        assert (await send(client, file, overwrite=True)).moved == 100_000
    assert (tmp_path / "store" / file.name).read_bytes() == file.read_bytes()


async def test_what_the_server_may_not_do_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Landing) -> None:
        raise PermissionError(13, "Permission denied")

    file = some_file(tmp_path, size=10)
    monkeypatch.setattr(Landing, "_open", refuse)
    async with store(tmp_path) as client:
        with pytest.raises(RemoteError, match="Permission denied") as caught:
            await send(client, file)
    assert caught.value.code is StatusCode.PERMISSION_DENIED
    assert kinds(caught.value) == ["NoPermission"]


async def test_what_nobody_went_on_with_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.bin.0.part", tmp_path / ".b.bin.0.part"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    assert FileService(tmp_path).prepare(keep_days=7) == 1
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


async def test_leaving_in_the_middle_leaves_no_thread_at_the_file(tmp_path: Path) -> None:
    """Cancelled at any moment, the next attempt goes on at once: the file is not in use any more."""
    file = some_file(tmp_path, size=2_000_000)
    async with store(tmp_path) as client:
        for turns in range(0, 60, 4):
            sending = asyncio.ensure_future(send(client, file))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait({sending})
        outcome = await persist(client, file)
    assert (tmp_path / "store" / file.name).read_bytes() == file.read_bytes()
    assert outcome.size == 2_000_000


async def persist(client: RpcClient, file: Path) -> Outcome:
    """Send until the server has noticed that the earlier attempts are over."""
    while True:
        try:
            return await send(client, file)
        except RemoteError as error:
            assert kinds(error) == ["InUse"]
            await asyncio.sleep(0.01)


def test_the_program_says_how_to_run_it() -> None:
    done = finished(command("--help"), ROOT)
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("serve", "upload", "download", "list"))
