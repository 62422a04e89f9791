"""What a listener answers to requests of every kind; and after each of them it still serves others."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from echostream_core.errors import ConfigError
from echostream_websocket._http import MAX_HEAD_BYTES, Headers
from echostream_websocket.routing import origin_admitted
from plugins.tcp.tests.recording import LogLines, Recorder
from plugins.websocket.tests.peers import ACCEPT, ANY, UPGRADE, Response, dial, gone, listen, raw


async def still_serves(address: str, **options: object) -> None:
    near = Recorder(await dial(address, proxy="none", **options)).start()
    await gone(near)


async def asked(
    stack: AsyncExitStack, headers: dict[str, str] | None = None, line: str = "GET / HTTP/1.1", **options: object
) -> Response:
    """What a listener with ``options`` answers; checked to be alive afterwards."""
    listener = await listen(stack, ANY, None, **options)
    peer = await raw(stack, listener.addresses[0])
    response = await peer.ask(headers, line)
    if response.status != 101:
        assert response.headers["connection"] == "close"
    known = {key: value for key, value in options.items() if key in ("authorization",)}
    await still_serves(listener.addresses[0], **known)
    return response


# Accepted.


async def test_the_handshake_of_the_rfc_is_accepted(stack: AsyncExitStack) -> None:
    response = await asked(stack)
    assert response.status == 101
    assert response.headers["sec-websocket-accept"] == ACCEPT
    assert response.headers["sec-websocket-protocol"] == "echostream.v1"


@pytest.mark.parametrize(
    "changes",
    [
        {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"},
        {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover, x-webkit-deflate-frame"},
    ],
)
async def test_compression_is_declined(stack: AsyncExitStack, changes: dict[str, str]) -> None:
    response = await asked(stack, {**UPGRADE, **changes})
    assert response.status == 101
    assert "sec-websocket-extensions" not in response.headers


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "WebSocket"},
        {"Connection": "keep-alive, Upgrade"},
        {"Sec-WebSocket-Protocol": "other, echostream.v1"},
    ],
)
async def test_other_ways_to_write_it_are_understood(stack: AsyncExitStack, changes: dict[str, str]) -> None:
    response = await asked(stack, {**UPGRADE, **changes})
    assert response.status == 101
    assert response.headers["sec-websocket-protocol"] == "echostream.v1"


async def test_what_stands_behind_a_question_mark_is_ignored_and_not_logged(
    stack: AsyncExitStack, log: LogLines
) -> None:
    assert (await asked(stack, line="GET /?token=hunter2 HTTP/1.1")).status == 101
    assert (await asked(stack, line="GET /x?token=hunter2 HTTP/1.1")).status == 404
    assert "hunter2" not in str(log.lines)


async def test_a_request_may_come_byte_by_byte(stack: AsyncExitStack) -> None:
    listener = await listen(stack)
    peer = await raw(stack, listener.addresses[0])
    lines = ["GET / HTTP/1.1", *(f"{name}: {value}" for name, value in UPGRADE.items())]
    for byte in "\r\n".join(lines).encode() + b"\r\n\r\n":
        peer.writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await peer.answer()).status == 101


# Refused.


@pytest.mark.parametrize(
    ("changes", "line", "status"),
    [
        ({}, "POST / HTTP/1.1", 405),
        ({"Content-Length": "5"}, "PUT / HTTP/1.1", 405),
        ({}, "GET / HTTP/1.0", 505),
        ({}, "GET / HTTP/3.0", 400),
        ({}, "GET /", 400),
        ({}, "GET http://127.0.0.1/ HTTP/1.1", 400),
        ({}, "CONNECT example:443 HTTP/1.1", 400),
        ({"Content-Length": "5"}, "GET / HTTP/1.1", 400),
        ({"Host": ""}, "GET / HTTP/1.1", 101),
        ({"Sec-WebSocket-Version": "8"}, "GET / HTTP/1.1", 426),
        ({"Sec-WebSocket-Version": ""}, "GET / HTTP/1.1", 426),
        ({"Sec-WebSocket-Key": ""}, "GET / HTTP/1.1", 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, "GET / HTTP/1.1", 400),
        ({"Sec-WebSocket-Key": "***"}, "GET / HTTP/1.1", 400),
        ({"Connection": "close"}, "GET / HTTP/1.1", 426),
        ({"Sec-WebSocket-Protocol": "chat"}, "GET / HTTP/1.1", 400),
        ({"Sec-WebSocket-Protocol": "echostream.v11"}, "GET / HTTP/1.1", 400),
        ({}, "GET /other HTTP/1.1", 404),
        ({}, "GET /. HTTP/1.1", 404),
    ],
)
async def test_a_request_that_is_not_right_is_answered_with_the_right_status(
    stack: AsyncExitStack, changes: dict[str, str], line: str, status: int
) -> None:
    response = await asked(stack, {**UPGRADE, **changes}, line)
    assert response.status == status
    if status == 426:
        assert response.headers["upgrade"] == "websocket"
        assert response.headers["sec-websocket-version"] == "13"
    if status == 405:
        assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("missing", ["Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol"])
async def test_a_request_without_a_header_that_must_be_is_refused(stack: AsyncExitStack, missing: str) -> None:
    headers = {name: value for name, value in UPGRADE.items() if name != missing}
    response = await asked(stack, headers)
    assert response.status == (426 if missing == "Sec-WebSocket-Version" else 400)


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization"])
async def test_a_header_that_may_come_once_may_not_come_twice(stack: AsyncExitStack, name: str) -> None:
    listener = await listen(stack, authorization="a")
    peer = await raw(stack, listener.addresses[0])
    response = await peer.ask({**UPGRADE, "Authorization": "a", "Origin": "http://127.0.0.1", name.lower(): "a"})
    assert response.status == 400


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"ESTREAM1\0\0", b"\0\0\0\0", b"\xff" * 50_000, b"\r\n", b"get / http"],
    ids=["tls", "echostream", "zeros", "much", "empty line", "lower case"],
)
async def test_who_does_not_speak_http_is_told_and_logged(stack: AsyncExitStack, log: LogLines, garbage: bytes) -> None:
    listener = await listen(stack)
    peer = await raw(stack, listener.addresses[0])
    peer.writer.write(garbage)
    assert (await peer.answer()).status == 400
    hint = {0x16: "speaks TLS: its URL", 0x45: "speaks EchoStream without WebSocket"}.get(garbage[0], "does not speak")
    assert hint in (await log.wait())[0]
    assert log.lines[0].isprintable()
    await still_serves(listener.addresses[0])


def padded(size: int) -> dict[str, str]:
    """Headers of a request that has ``size`` bytes in all."""
    rest = size - len("GET / HTTP/1.1\r\n\r\n") - sum(len(f"{name}: {value}\r\n") for name, value in UPGRADE.items())
    headers = dict(UPGRADE)
    for index in range(3):
        length = min(rest, 8_000)
        headers[f"X-Pad-{index}"] = "x" * (length - len("X-Pad-0: \r\n"))
        rest -= length
    return headers


async def test_a_request_of_16_kib_is_read_and_one_byte_more_is_not(stack: AsyncExitStack, log: LogLines) -> None:
    assert (await asked(stack, padded(MAX_HEAD_BYTES))).status == 101
    assert (await asked(stack, padded(MAX_HEAD_BYTES + 1))).status == 431
    assert "16384 bytes" in (await log.wait())[0]


async def test_endless_headers_are_not_waited_for(stack: AsyncExitStack) -> None:
    listener = await listen(stack)
    peer = await raw(stack, listener.addresses[0])
    peer.writer.write(b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 4_000)
    assert (await peer.answer()).status == 431
    await still_serves(listener.addresses[0])


@pytest.mark.parametrize("count", [200])
async def test_very_many_headers_are_refused(stack: AsyncExitStack, count: int) -> None:
    assert (await asked(stack, {**UPGRADE, **{f"X-{number}": "y" for number in range(count)}})).status == 431


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_request_that_takes_too_long_is_given_up(stack: AsyncExitStack, log: LogLines, sent: bytes) -> None:
    listener = await listen(stack, handshake_timeout_s=0.03)
    peer = await raw(stack, listener.addresses[0])
    peer.writer.write(sent)
    assert (await peer.answer()).status == 408
    assert ("did not finish its request" if sent else "said nothing") in (await log.wait())[0]
    await still_serves(listener.addresses[0])


async def test_a_slow_loris_does_not_live_longer_by_dripping(stack: AsyncExitStack) -> None:
    listener = await listen(stack, handshake_timeout_s=0.05)
    peer = await raw(stack, listener.addresses[0])
    peer.writer.write(b"GET / HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            peer.writer.write(b"a")
            await asyncio.sleep(0.005)

    dripping = asyncio.create_task(drip())
    try:
        assert (await peer.answer()).status == 408
    finally:
        dripping.cancel()


async def test_who_leaves_without_a_word_is_not_worth_a_warning(stack: AsyncExitStack, log: LogLines) -> None:
    listener = await listen(stack)
    for _ in range(3):
        await (await raw(stack, listener.addresses[0])).close()
    await still_serves(listener.addresses[0])
    assert log.lines == []


# Origins.


@pytest.mark.parametrize(
    ("origins", "origin", "host", "status"),
    [
        ([], None, "example.com", 101),
        ([], "http://example.com", "example.com", 101),
        ([], "https://example.com", "example.com:443", 101),
        ([], "https://EXAMPLE.com:8443", "example.com:8443", 101),
        ([], "http://[::1]:80", "[::1]", 101),
        ([], "https://example.com", "example.com:8443", 403),
        ([], "https://evil.example", "example.com", 403),
        ([], "https://example.com.evil.example", "example.com", 403),
        ([], "null", "example.com", 403),
        ([], "", "", 403),
        ([], "http://[", "example.com", 403),
        ([], "http://example.com:x", "example.com", 403),
        (["https://app.example"], "https://app.example", "api.example", 101),
        (["https://app.example"], "https://APP.example", "api.example", 101),
        (["https://app.example"], None, "api.example", 101),
        (["https://app.example:443"], "https://app.example", "api.example", 101),
        (["http://app.example:80"], "http://app.example", "api.example", 101),
        (["https://app.example:80"], "https://app.example", "api.example", 403),
        (["https://app.example:8443"], "https://app.example", "api.example", 403),
        (["https://app.example"], "http://app.example", "api.example", 403),
        (["https://app.example"], "https://api.example", "api.example", 403),
        (["*"], "https://anybody.example", "api.example", 101),
        (["*"], "null", "api.example", 101),
    ],
)
async def test_a_page_may_connect_if_its_origin_is_admitted(
    stack: AsyncExitStack, log: LogLines, origins: list[str], origin: str | None, host: str, status: int
) -> None:
    headers = {**UPGRADE, "Host": host} | ({} if origin is None else {"Origin": origin})
    assert (await asked(stack, headers, origins=origins)).status == status
    assert len(log.lines) == (status == 403)
    if status == 403:
        assert "origin" in log.lines[0]


@pytest.mark.parametrize(
    ("origin", "in_the_clear", "encrypted"),
    [("https://h.example:1", True, True), ("http://h.example:1", True, False), ("ftp://h.example:1", False, False)],
)
def test_a_page_that_came_in_the_clear_is_not_of_an_encrypted_host(
    origin: str, in_the_clear: bool, encrypted: bool
) -> None:
    headers = Headers({"Host": "h.example:1"})
    assert origin_admitted(origin, [], headers, encrypted=False) is in_the_clear  # the proxy before it may encrypt
    assert origin_admitted(origin, [], headers, encrypted=True) is encrypted
    assert origin_admitted(origin, [origin], headers, encrypted=True)


# Authorization.


@pytest.mark.parametrize("given", [None, "Bearer guess", "bearer sesame", "Bearer sesame ", "Bearer sesam", "ünicode"])
async def test_without_the_right_authorization_the_answer_is_401(
    stack: AsyncExitStack, log: LogLines, given: str | None
) -> None:
    headers = UPGRADE if given is None else {**UPGRADE, "Authorization": given}
    response = await asked(stack, headers, authorization="Bearer sesame")
    if given == "Bearer sesame ":  # blanks at the end do not belong to a header's value
        assert response.status == 101
        return
    assert response.status == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="echostream"'
    assert "sesam" not in str((response.body, log.lines))
    assert "guess" not in str(log.lines)


async def test_a_browser_is_asked_for_what_it_can_give(stack: AsyncExitStack) -> None:
    response = await asked(stack, authorization="Basic dXNlcjpwYXNz")
    assert response.headers["www-authenticate"] == 'Basic realm="echostream"'


async def test_the_right_authorization_opens(stack: AsyncExitStack) -> None:
    assert (
        await asked(stack, {**UPGRADE, "Authorization": "Bearer right"}, authorization="Bearer right")
    ).status == 101


# Plain HTTP.


@pytest.mark.parametrize("line", ["GET /health HTTP/1.1", "GET /health?x=1 HTTP/1.1", "HEAD /health HTTP/1.1"])
async def test_health_is_told(stack: AsyncExitStack, log: LogLines, line: str) -> None:
    response = await asked(stack, {"Host": "h"}, line)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len('{"status":"ok"}')
    assert line.startswith("HEAD") or json.loads(response.body) == {"status": "ok"}
    assert log.lines == []


async def test_health_is_told_to_old_http_too(stack: AsyncExitStack) -> None:
    assert (await asked(stack, {}, "GET /health HTTP/1.0")).status == 200


async def test_the_path_of_health_can_be_chosen_and_left_out(stack: AsyncExitStack) -> None:
    assert (await asked(stack, {"Host": "h"}, "GET /alive HTTP/1.1", health_path="/alive")).status == 200
    assert (await asked(stack, {"Host": "h"}, "GET /health HTTP/1.1", health_path="/alive")).status == 404
    assert (await asked(stack, {"Host": "h"}, "GET /health HTTP/1.1", health_path="")).status == 404


async def test_a_browser_at_the_address_is_told_what_it_is(stack: AsyncExitStack, log: LogLines) -> None:
    response = await asked(stack, {"Host": "h"})
    assert response.status == 426
    assert response.headers["upgrade"] == "websocket"
    assert b"EchoStream" in response.body
    assert log.lines == []


async def test_other_paths_and_methods_of_plain_http_are_refused(stack: AsyncExitStack) -> None:
    assert (await asked(stack, {"Host": "h"}, "GET /favicon.ico HTTP/1.1")).status == 404
    assert (await asked(stack, {"Host": "h"}, "DELETE /health HTTP/1.1")).status == 405
    assert (await asked(stack, {"Host": "h", "Transfer-Encoding": "chunked"}, "POST /health HTTP/1.1")).status == 405


# Pages.


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>hello</h1>")
    (folder / "app.js").write_text("1")
    (folder / "sub" / "data.bin").write_bytes(b"\0\1")
    (folder / ".secret").write_text("no")
    (tmp_path / "outside.txt").write_text("no")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    return folder


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/demo/", 200, "text/html; charset=utf-8"),
        ("/demo/index.html", 200, "text/html; charset=utf-8"),
        ("/demo/app.js", 200, "text/javascript; charset=utf-8"),
        ("/demo/app%2Ejs", 200, "text/javascript; charset=utf-8"),
        ("/demo/sub/data.bin", 200, "application/octet-stream"),
        ("/one", 200, "text/javascript; charset=utf-8"),
        ("/demo/.secret", 404, ""),
        ("/demo/link.txt", 404, ""),
        ("/demo/../outside.txt", 404, ""),
        ("/demo/%2e%2e/outside.txt", 404, ""),
        ("/demo/..%2f..%2foutside.txt", 404, ""),
        ("/demo/sub", 404, ""),
    ],
)
async def test_pages_are_served_and_nothing_beside_them(
    stack: AsyncExitStack, site: Path, path: str, status: int, kind: str
) -> None:
    pages = {"/demo": str(site), "/one": str(site / "app.js")}
    response = await asked(stack, {"Host": "h"}, f"GET {path} HTTP/1.1", pages=pages)
    assert response.status == status
    if status == 200:
        assert response.headers["content-type"] == kind
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.body
        head = await asked(stack, {"Host": "h"}, f"HEAD {path} HTTP/1.1", pages=pages)
        assert head.headers["content-length"] == str(len(response.body))
    else:
        assert response.body != b"no"


async def test_pages_that_are_missing_or_too_large_stop_the_start(stack: AsyncExitStack, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: no such file"):
        await listen(stack, pages={"/": str(tmp_path / "none")})
    fits, large = tmp_path / "fits.txt", tmp_path / "large.txt"
    fits.write_bytes(b"x" * 1_048_576)
    large.write_bytes(b"x" * 1_048_577)
    response = await asked(stack, {"Host": "h"}, "GET /a HTTP/1.1", pages={"/a": str(fits)})
    assert len(response.body) == 1_048_576
    with pytest.raises(ConfigError, match="more than 1048576 bytes") as caught:
        await listen(stack, pages={"/": str(large)})
    assert caught.value.key == "pages"


async def test_a_folder_of_too_many_pages_stops_the_start(stack: AsyncExitStack, tmp_path: Path) -> None:
    for number in range(256):
        (tmp_path / f"{number}.txt").touch()
    await listen(stack, pages={"/": str(tmp_path)})
    (tmp_path / "one-more.txt").touch()
    with pytest.raises(ConfigError, match="more than 256 files"):
        await listen(stack, pages={"/": str(tmp_path)})
