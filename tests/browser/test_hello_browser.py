"""examples/hello_browser in Chromium: what the page shows, and what it says when something is missing or ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from echostream_core import Kernel
from tests.browser.chromium import HERE, Chromium, Page
from tests.e2e.processes import running

INSTALLED = set(Kernel().known("transport"))
pytestmark = pytest.mark.skipif(not {"ws", "wt"} <= INSTALLED, reason="needs echostream-websocket and -webtransport")

pytest.importorskip("echostream_certs", reason="the example makes a certificate")

ROOT = HERE.parents[1]

WAIT = """
    const card = (way) => document.getElementById(way);
    const state = (way) => card(way).querySelector(".state").textContent;
    const problem = (way) => card(way).querySelector(".problem").textContent;
    const median = (way) => card(way).querySelector(".median").textContent;
    const until = async (condition) => {
      for (const end = performance.now() + 12_000; !condition(); ) {
        if (performance.now() > end) throw new Error(`waited in vain for ${condition}: ${document.body.innerText}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
"""
MEASURED = 'await until(() => median("websocket") !== "–" && median("webtransport") !== "–");'


async def on(page: Page, *body: str, timeout: float = 15.0) -> Any:
    """Run JavaScript in the page, with the functions above."""
    return await page.run(WAIT + "".join(body), timeout=timeout)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Whatever is entered ends with the test."""
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, folder: Path, port: int = 0) -> str:
    """The example in a process of its own; the address of its page."""
    command = ["-m", "examples.hello_browser", "--port", str(port)]
    program = stack.enter_context(running(command, folder, environ={"PYTHONPATH": str(ROOT)}))
    return next(word for word in program.line().split() if word.startswith("http://"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all who leave it alone."""
    with ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("hello"))


def visit(stack: ExitStack, chromium: Chromium, url: str, **options: object) -> Page:
    page = chromium.open(url, **options)
    stack.callback(page.close)
    return page


async def test_both_latencies_and_a_greeting_are_shown(chromium: Chromium, stack: ExitStack, address: str) -> None:
    page = visit(stack, chromium, address)
    shown = await on(
        page,
        MEASURED,
        """
        document.getElementById("name").value = "Grace <b>";
        document.getElementById("greeting").requestSubmit();
        const answers = () => [...document.querySelectorAll("#answers li")].map((line) => line.textContent);
        await until(() => answers().length === 2);
        const figure = (way, name) => card(way).querySelector(`.${name}`).textContent;
        const figures = (way) => ["median", "p99", "count"].map((name) => figure(way, name));
        const width = (way) => parseFloat(card(way).querySelector(".to-p99").style.width);
        return { states: [state("websocket"), state("webtransport")], answers: answers(),
          figures: [figures("websocket"), figures("webtransport")], widths: [width("websocket"), width("webtransport")],
          problems: document.querySelectorAll(".problem:not([hidden])").length };
    """,
    )
    assert shown["states"] == ["connected", "connected"]
    assert shown["answers"] == ["WebTransport: Hello, Grace <b>!", "WebSocket: Hello, Grace <b>!"]
    for median, p99, count in shown["figures"]:
        assert 0 < float(median.removesuffix(" ms")) <= float(p99.removesuffix(" ms"))
        assert count == "200"
    assert max(shown["widths"]) == 100
    assert shown["problems"] == 0
    assert await page.log() == [], "nothing may be written to the console"


async def test_measuring_again_shows_new_figures(chromium: Chromium, stack: ExitStack, address: str) -> None:
    page = visit(stack, chromium, address)
    await on(
        page,
        MEASURED,
        """
        for (const way of ["websocket", "webtransport"]) card(way).querySelector(".median").textContent = "–";
        document.getElementById("again").click();
        await until(() => median("websocket") !== "–" && median("webtransport") !== "–");
    """,
    )


async def test_a_server_that_stops_is_told_and_one_that_starts_again_is_found(
    chromium: Chromium, stack: ExitStack, tmp_path: Path
) -> None:
    with ExitStack() as first:
        url = start(first, tmp_path)
        page = visit(stack, chromium, url)
        await on(page, MEASURED)
        # Killed, not stopped: WebTransport learns of it by silence only.
    told = await on(
        page,
        """
        await until(() => state("websocket") === "disconnected" && state("webtransport") === "disconnected");
        return [problem("websocket"), problem("webtransport")];
    """,
    )
    assert all("ry" in text or "gain" in text for text in told), told
    start(stack, tmp_path, int(url.rstrip("/").rpartition(":")[2]))
    await on(
        page,
        """
        await until(() => state("websocket") === "connected");
        await until(() => state("webtransport") === "connected");
    """,
        timeout=25,
    )


async def test_a_browser_without_webtransport_is_told_so_and_uses_the_websocket(
    chromium: Chromium, stack: ExitStack, address: str
) -> None:
    page = visit(stack, chromium, address, script="delete globalThis.WebTransport")
    shown = await on(
        page,
        """
        await until(() => median("websocket") !== "–");
        return [state("webtransport"), problem("webtransport")];
    """,
    )
    assert shown == ["unavailable", "This browser has no WebTransport. Everything works over WebSocket."]
    assert await page.log() == []


async def test_the_page_serves_its_own_files_only(chromium: Chromium, stack: ExitStack, address: str) -> None:
    page = visit(stack, chromium, address)
    paths = ["server.py", "../server.py", "%2e%2e/server.py", "__main__.py", "echostream/wire.js", "page.css"]
    body = "return Promise.all(argument.map(async (path) => (await fetch(path)).status))"
    assert await page.run(body, paths) == [404, 404, 404, 404, 200, 200]


async def test_the_least_page_works_and_is_the_one_that_the_documentation_shows(
    chromium: Chromium, stack: ExitStack, address: str
) -> None:
    page = visit(stack, chromium, f"{address}minimal.html")
    await on(page, 'await until(() => document.querySelector("output").textContent === "It works.");')
    source = (ROOT / "examples/hello_browser/page/minimal.html").read_text(encoding="utf-8")
    assert f"```text\n{source}```" in (ROOT / "docs/browser.md").read_text(encoding="utf-8")
