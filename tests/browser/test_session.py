"""The example's JavaScript client against servers of ours: in Chromium over WebTransport, and in Node."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest

from echostream_core import Context, Kernel, RpcClient, RpcError, RpcServer, StatusCode, handler
from echostream_core.components import Credentials, PeerInfo
from tests.browser.certificates import make_pair
from tests.browser.chromium import HERE, Page, find_node
from tests.browser.handlers import RUN, SCENARIOS, Peer

INSTALLED = set(Kernel().known("transport"))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.skipif("wt" not in INSTALLED, reason="needs echostream-webtransport")
async def test_over_webtransport_in_chromium(scenario: str, page: Page, origin: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    transport = {"wt": {"origins": [origin]}}
    server = RpcServer("wt://127.0.0.1:0/x", *Peer().handlers(), name="house", tls=pair.tls, transport=transport)
    async with server:
        options = {"certificateHashes": [pair.fingerprint]}
        argument = {"name": scenario, "url": server.addresses[0], "options": options}
        assert await page.run(RUN, argument) == "passed"


@pytest.mark.skipif("wt" not in INSTALLED, reason="needs echostream-webtransport")
async def test_credentials_of_the_page_are_looked_at_by_the_authenticator(
    page: Page, origin: str, tmp_path: Path
) -> None:
    async def name_of(credentials: Credentials, peer: PeerInfo) -> str:
        if credentials.get("token") != "right":
            raise RpcError(StatusCode.UNAUTHENTICATED, "a wrong token")
        return "the page"

    @handler("who")
    def who(ctx: Context) -> str | None:
        return ctx.peer_identity

    pair = make_pair(tmp_path)
    transport = {"wt": {"origins": [origin]}}
    server = RpcServer("wt://127.0.0.1:0/", who, tls=pair.tls, transport=transport, authenticator=name_of)
    body = """
        const { connect } = await import("/client/echostream.js");
        try {
          return await (await connect(argument.url, argument.options)).request("who");
        } catch (error) {
          return error.code; // of connect or of the call: the server greets before it has looked at the credentials
        }
    """
    async with server:
        options: dict[str, object] = {"certificateHashes": [pair.fingerprint], "credentials": {"token": "right"}}
        argument = {"url": server.addresses[0], "options": options}
        assert await page.run(body, argument) == "the page"
        options["credentials"] = {"token": "wrong"}
        assert await page.run(body, argument) == 5


@pytest.mark.skipif(not {"wt", "quic"} <= INSTALLED, reason="needs echostream-webtransport and -quic")
async def test_a_page_and_a_native_client_on_one_port(page: Page, origin: str, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    peer = Peer()
    transport = {"wt": {"origins": [origin]}}
    async with RpcServer(
        "wt://127.0.0.1:0/x", *peer.handlers(), name="house", tls=pair.tls, transport=transport
    ) as one:
        address = one.addresses[0].replace("wt:", "quic:").removesuffix("/x")
        async with (
            RpcServer(address, *peer.handlers(), tls=pair.tls),
            RpcClient.connect(address, tls={"pin": pair.pin}) as client,
        ):
            assert await client.request("math.add", {"a": 2, "b": 3}) == 5
            options = {"certificateHashes": [pair.fingerprint]}
            argument = {"name": SCENARIOS[0], "url": one.addresses[0], "options": options}
            assert await page.run(RUN, argument) == "passed"
            assert await client.request("math.add", {"a": 3, "b": 3}) == 6


@pytest.mark.skipif("tcp" not in INSTALLED, reason="needs echostream-tcp")
async def test_over_tcp_in_node() -> None:
    async with RpcServer("tcp://127.0.0.1:0", *Peer().handlers(), name="house") as server:
        port = server.addresses[0].rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            find_node(), str(HERE / "in_node.mjs"), port, *SCENARIOS, stdout=-1, stderr=-1
        )
        try:
            async with asyncio.timeout(40):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode == 0, errors.decode()
    assert output.decode().splitlines() == SCENARIOS


@pytest.mark.parametrize(("file", "least"), [("vectors.test.mjs", 400), ("session.test.mjs", 30)])
def test_in_node(file: str, least: int) -> None:
    """The protocol's vectors, read and written; and the session against a peer that breaks the rules."""
    command = [find_node(), "--test", "--test-reporter=spec", str(HERE / file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout.partition("failing tests:")[2] + done.stderr
    passed = re.search(r"^. pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None and int(passed[1]) >= least


def test_the_list_of_scenarios_is_complete() -> None:
    command = [find_node(), str(HERE / "in_node.mjs"), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout) == SCENARIOS
