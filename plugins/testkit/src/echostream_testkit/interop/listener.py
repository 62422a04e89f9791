"""Our listener: binds, tells where, serves until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from echostream_core import ConfigError, Kernel, PluginNotFound, RpcServer, Url
from echostream_testkit.interop.contract import (
    CONTRACT_VERSION,
    FAILED,
    PASSED,
    UNSUPPORTED,
    Outcome,
    Settings,
    implementation,
    write_json,
)
from echostream_testkit.interop.services import InteropServices

__all__ = ["NotSupported", "check_support", "lifeline", "run_listener", "tls_of"]

DRAIN_S: Final = 5.0
"""What running calls get when the listener is told to stop."""


class NotSupported(Exception):
    """This implementation cannot do what it is asked; the text says what is missing."""


async def run_listener(settings: Settings, services: object | None = None) -> int:
    """Serve until SIGTERM, the end of the lifeline, or ``timeout_s``; the exit status.

    ``services`` are those of the contract unless a test of the runner wants others.
    """
    outcome: Outcome = "passed"
    reason = ""
    try:
        check_support(settings)
        server = RpcServer(
            settings.url,
            services or InteropServices(),
            codecs=settings.codecs,
            tls=tls_of(settings),
            drain_timeout=DRAIN_S,
            name="interop",
        )
        async with server, lifeline(settings, server.close), asyncio.timeout(settings.timeout_s):
            tell_ready(settings.ready, server.addresses[0])
            await server.serve_forever()
    except NotSupported as error:
        outcome, reason = "unsupported", str(error)
    except TimeoutError:
        outcome, reason = "failed", f"nobody stopped the listener within {settings.timeout_s:g} s"
    if reason:
        sys.stderr.write(f"listener: {outcome}: {reason}\n")
    if settings.result is not None:
        content = {"contract": CONTRACT_VERSION, "role": "listener", "implementation": implementation()}
        write_json(settings.result, {**content, "outcome": outcome, "reason": reason})
    return {"passed": PASSED, "failed": FAILED, "unsupported": UNSUPPORTED}[outcome]


def tell_ready(path: Path | None, url: str) -> None:
    """Tell the bound URL, in a file that appears in one step or on standard output."""
    if path is None:
        sys.stdout.write(f"ready {url}\n")
        sys.stdout.flush()
        return
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(url + "\n", encoding="utf-8")
    fresh.replace(path)


def check_support(settings: Settings) -> None:
    """NotSupported unless the transport and every codec are installed here, ConfigError unless they are settled."""
    kernel = Kernel()
    scheme = Url.parse(settings.url).scheme
    try:
        spec = kernel.transport(scheme)
        for codec in settings.codecs:
            kernel.codec(codec)
    except PluginNotFound as error:
        raise NotSupported(str(error)) from error
    if spec.capabilities.in_process:
        raise NotSupported(f"{scheme}:// stays within one process: a listener and a dialer are two")


def tls_of(settings: Settings) -> dict[str, object] | None:
    """The TLS settings where the transport takes some; ConfigError when it cannot do without and there are none."""
    spec = Kernel().transport(Url.parse(settings.url).scheme)
    if "tls" not in spec.options.__struct_fields__:
        return None
    given = settings.tls()
    if not given and settings.role == "listener":
        raise ConfigError(f"{settings.url} is encrypted: set ECHOSTREAM_INTEROP_TLS_CERTIFICATE and _TLS_PRIVATE_KEY")
    return given or None


@asynccontextmanager
async def lifeline(settings: Settings, stop: Callable[[], object]) -> AsyncIterator[None]:
    """While the block runs, watch standard input if the settings say so; at its end run the coroutine of ``stop``.

    Whoever started us may have been killed, and could then stop nobody.
    """
    if not settings.lifeline:
        yield
        return
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Future[object]] = []

    def ended() -> None:
        answer = stop()
        if asyncio.iscoroutine(answer):
            stopping.append(asyncio.ensure_future(answer))

    def watch() -> None:
        # os.read, not sys.stdin: a thread that holds its lock at exit would be fatal for the interpreter.
        while os.read(0, 4096):
            pass
        try:
            loop.call_soon_threadsafe(ended)
        except RuntimeError:  # the loop has ended meanwhile: we are stopping already
            return

    threading.Thread(target=watch, daemon=True, name="interop-lifeline").start()
    yield
    if stopping:
        await asyncio.wait(stopping)
