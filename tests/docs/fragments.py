"""Runs parts of programs: the statements of a page inside a coroutine, with a client that is connected over memory."""

from __future__ import annotations

import ast
import asyncio
import sys
import textwrap
import types
from typing import Any

import echostream_core
from echostream_core import RpcClient, RpcServer
from echostream_core.engine.handlers import collect_routes
from tests.docs.markdown import Block
from tests.support.pairs import memory_url

__all__ = ["Scene"]


class Scene:
    """The names that the ``define`` blocks of a page have made so far."""

    def __init__(self) -> None:
        module = types.ModuleType("docs_scene")
        sys.modules[module.__name__] = module  # dataclasses look their module up
        self.names: dict[str, Any] = module.__dict__

    def define(self, block: Block) -> None:
        """Run a block at the level of the module."""
        exec(compile(_padded(block, block.text), str(block.page), "exec"), self.names)

    def play(self, block: Block) -> None:
        """Run a block inside a coroutine, on what its mark ``in`` asks for."""
        where = block.marks["in"]
        body = textwrap.indent(block.text, "    ")
        parameter = {"client": "client", "session": "session", "coroutine": "_"}[where]
        source = f"async def __fragment__({parameter}):\n{body}"
        names = dict(self.names)
        tree = ast.parse(_padded(block, source, lines=1))
        exec(compile(tree, str(block.page), "exec"), names)
        fragment = names["__fragment__"]
        expected = block.marks.get("raises")
        try:
            asyncio.run(self._play(where, fragment))
        except BaseException as error:
            if expected is None:
                raise
            kind = getattr(echostream_core, expected, None) or getattr(__builtins__, expected, None)
            assert kind is not None and isinstance(error, kind), f"raised {type(error).__name__}: {error}"
        else:
            assert expected is None, f"should have raised {expected}"

    async def _play(self, where: str, fragment: Any) -> None:
        async with asyncio.timeout(20):
            if where == "coroutine":
                await fragment(None)
                return
            url = memory_url()
            async with RpcServer(url, *self.handlers()) as server, RpcClient.connect(url, *self.handlers()) as client:
                if where == "client":
                    await fragment(client)
                else:
                    await client.ping()
                    await fragment(server.sessions[0])

    def handlers(self) -> list[object]:
        """Everything among the names that can be served; of two with one name the later."""
        found: dict[str, object] = {}
        for value in self.names.values():
            target = value
            if isinstance(value, type):
                try:
                    target = value()
                except TypeError:
                    continue
            try:
                routes = collect_routes([target])
            except echostream_core.ConfigError:
                continue
            for name in routes:
                found[name] = target
        return list(dict.fromkeys(found.values()))


def _padded(block: Block, source: str, *, lines: int = 0) -> str:
    """``source`` on the lines of the page, so that tracebacks point there."""
    return "\n" * (block.line - 1 - lines) + source
