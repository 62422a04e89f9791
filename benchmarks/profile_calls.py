"""Prove that no plugin hook runs per call: ``python -m benchmarks.profile_calls``.

Client and server share one process on the memory transport. Once connected and warm, every Python frame that
starts during the calls is counted by cProfile; the status is 1 if a single one of them is pluggy's. The
counts by module are printed as well: they say where a call spends its frames, and unlike timings they are the
same on every machine.
"""

import argparse
import asyncio
import cProfile
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Final

from benchmarks.peer import EchoClient, run_on_uvloop

__all__ = ["count_frames", "main"]

WARM_CALLS: Final = 200
SHOWN_MODULES: Final = 15
PAYLOAD: Final = bytes(range(32))
CHECKOUT: Final = Path(__file__).resolve().parents[1]

Frames = Counter[tuple[str, str]]
"""How many frames started, by file name and qualified name of the code."""


async def count_frames(calls: int, in_flight: int, workdir: Path) -> Frames:
    """Make that many echo calls over the memory transport and count the frames they start."""
    from benchmarks.peer_echostream import EchoStreamPeer

    async with EchoStreamPeer("memory", workdir).connect("") as client:
        await _make_calls(client, WARM_CALLS, in_flight)
        profiler = cProfile.Profile(subcalls=False, builtins=False)
        profiler.enable()
        try:
            await _make_calls(client, calls, in_flight)
        finally:
            profiler.disable()
    frames: Frames = Counter()
    for entry in profiler.getstats():
        if isinstance(entry.code, CodeType):
            frames[entry.code.co_filename, entry.code.co_qualname] += entry.callcount
    return frames


def main(argv: list[str] | None = None) -> int:
    """Count, print and judge: 0 without a frame of pluggy's, 1 with any, 2 when the count proves nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--in-flight", type=int, default=64)
    arguments = parser.parse_args(argv)
    try:
        import pluggy

        from benchmarks import peer_echostream
    except ImportError as error:
        print(f"benchmarks: {error}: pip install -e . -e plugins/codec_msgpack uvloop", file=sys.stderr)
        return 2

    counted: list[Frames] = []

    async def count() -> None:
        with tempfile.TemporaryDirectory(prefix="echostream-bench-") as folder:
            counted.append(await count_frames(arguments.calls, arguments.in_flight, Path(folder)))

    run_on_uvloop(count())
    frames = counted[0]
    handled = frames[str(peer_echostream.__file__), "echo"]
    hooks = Counter({code: n for code, n in frames.items() if _is_inside(code[0], Path(pluggy.__file__).parent)})
    _print_modules(frames, arguments.calls)
    if handled < arguments.calls:
        print(f"cannot judge: {arguments.calls:,} calls made, the profile saw {handled:,} in the handler")
        return 2
    print(f"\n{arguments.calls:,} calls, {hooks.total():,} frames of pluggy")
    for (_, name), number in hooks.most_common():
        print(f"  {number:>12,}  {name}")
    return 1 if hooks else 0


async def _make_calls(client: EchoClient, calls: int, in_flight: int) -> None:
    """Make exactly that many calls, so many at a time."""

    async def caller(numbers: Iterator[int]) -> None:
        for _ in numbers:
            await client.echo(PAYLOAD)

    numbers = iter(range(calls))
    async with asyncio.TaskGroup() as callers:
        for _ in range(min(in_flight, calls)):
            callers.create_task(caller(numbers))


def _print_modules(frames: Frames, calls: int) -> None:
    modules: Counter[str] = Counter()
    for (filename, _), number in frames.items():
        modules[_short(filename)] += number
    print(f"{'frames':>12}  {'per call':>8}  module")
    for module, number in modules.most_common(SHOWN_MODULES):
        print(f"{number:>12,}  {number / calls:>8.2f}  {module}")
    rest = modules.total() - sum(number for _, number in modules.most_common(SHOWN_MODULES))
    if rest:
        print(f"{rest:>12,}  {rest / calls:>8.2f}  {len(modules) - SHOWN_MODULES} further modules")
    print(f"{modules.total():>12,}  {modules.total() / calls:>8.2f}  all")


def _short(filename: str) -> str:
    """A file name from the checkout, the site packages or the standard library on."""
    path = Path(filename)
    if _is_inside(filename, CHECKOUT):
        return str(path.relative_to(CHECKOUT))
    for marker in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if marker in path.parts:
            return str(Path(*path.parts[path.parts.index(marker) + 1 :]))
    return filename


def _is_inside(filename: str, folder: Path) -> bool:
    return Path(filename).is_relative_to(folder)


if __name__ == "__main__":
    sys.exit(main())
