"""One program, any transport: by URL only, by TOML only, by environment only. Client and server are processes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from echostream_core import Kernel
from tests.e2e.processes import finished, running

SHOP = '''\
"""What the server serves."""
from echostream_core import Context, handler

@handler("shop.price")
async def price(item: str, ctx: Context) -> dict[str, str]:
    return {"item": item, "caller": ctx.session.peer.partition("://")[0]}
'''

SERVER = '''\
"""The server's program: the same in all tests."""
import sys
from echostream_core import RpcServer, run

async def main() -> None:
    overrides = {"server.shop.listen": sys.argv[1:]} if sys.argv[1:] else {}
    async with RpcServer.from_config("server.toml", overrides=overrides) as server:
        print(*server.addresses, flush=True)
        await server.serve_forever()

run(main())
'''

CLIENT = '''\
"""The client's program: the same in all tests."""
import json, sys
from echostream_core import RpcClient, run

async def main() -> None:
    overrides = {"client.visitor.url": sys.argv[1]} if sys.argv[1:] else {}
    async with RpcClient.from_config("client.toml", "visitor", overrides=overrides) as client:
        answer = await client.request("shop.price", "tea")
        print(json.dumps({**answer, "server": client.peer.partition("://")[0]}))

run(main())
'''

TLS = """
[transport.quic]
tls.dev = true
[transport.tls]
tls.dev = true
"""
NOBODY = "tcp://127.0.0.1:1"
"""What stands in the files while something else is to decide: nobody listens there."""

SCHEMES = [scheme for scheme in ("tcp", "unix", "tls", "quic") if scheme in Kernel().known("transport")]

pytestmark = pytest.mark.skipif(not SCHEMES, reason="no transport between processes is installed")


@pytest.fixture
def folder(dev_certificates: Path) -> Iterator[Path]:
    """A folder with the programs. Not tmp_path: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in (("shop.py", SHOP), ("server.py", SERVER), ("client.py", CLIENT)):
            (folder / file).write_text(content, encoding="utf-8")
        yield folder


def write_server(folder: Path, url: str) -> None:
    """The server's configuration."""
    section = f'[server.shop]\nlisten = "{url}"\nservices = "shop:price"\n'
    (folder / "server.toml").write_text(section + TLS, encoding="utf-8")


def write_client(folder: Path, url: str) -> None:
    """The client's configuration."""
    (folder / "client.toml").write_text(f'[client.visitor]\nurl = "{url}"\n' + TLS, encoding="utf-8")


def any_address(scheme: str, folder: Path) -> str:
    """Where a server may listen."""
    return f"unix://{folder}/shop.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0"


def answer_of(arguments: list[str], folder: Path, environ: dict[str, str]) -> dict[str, str]:
    """What the client's program saw: the answer, and the schemes at both ends."""
    done = finished(arguments, folder, environ=environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def expected(scheme: str) -> dict[str, str]:
    """Both ends saw this transport."""
    return {"item": "tea", "caller": scheme, "server": scheme}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_transport_changes_by_url_only(scheme: str, folder: Path) -> None:
    write_server(folder, NOBODY)
    write_client(folder, NOBODY)
    with running(["server.py", any_address(scheme, folder)], folder) as server:
        address = server.line()
        assert answer_of(["client.py", address], folder, {}) == expected(scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_transport_changes_by_toml_only(scheme: str, folder: Path) -> None:
    write_server(folder, any_address(scheme, folder))
    with running(["server.py"], folder) as server:
        write_client(folder, server.line())
        assert answer_of(["client.py"], folder, {}) == expected(scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_transport_changes_by_environment_only(scheme: str, folder: Path) -> None:
    write_server(folder, NOBODY)
    write_client(folder, NOBODY)
    listen = {"ECHOSTREAM__SERVER__SHOP__LISTEN": any_address(scheme, folder)}
    with running(["server.py"], folder, environ=listen) as server:
        dial = {"ECHOSTREAM__CLIENT__VISITOR__URL": server.line()}
        assert answer_of(["client.py"], folder, dial) == expected(scheme)


def test_the_same_holds_within_one_process(folder: Path) -> None:
    program = SERVER.replace("run(main())", "").replace("main()", "serve()") + CLIENT.replace(
        "run(main())", ""
    ).replace("main()", "visit()")
    program += (
        "import asyncio\n"
        "async def both() -> None:\n"
        "    serving = asyncio.create_task(serve())\n"
        "    await asyncio.sleep(0)\n"
        "    await visit()\n"
        "    serving.cancel()\n"
        "run(both())\n"
    )
    (folder / "both.py").write_text(program, encoding="utf-8")
    write_server(folder, "memory://shop")
    write_client(folder, "memory://shop")
    done = finished(["both.py"], folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected("memory")
