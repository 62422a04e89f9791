"""avahi on the other end of a cable: each sees what the other announces, changes and takes back.

Two network namespaces are the two machines. The daemon runs in one of them with a D-Bus and a runtime folder of its
own, so that it meets no other; Debian: ``apt install avahi-daemon avahi-utils dbus``.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugins.discovery_mdns.tests.namespaces import cable, need
from plugins.discovery_mdns.tests.programs import Program, announcer, running

TYPE = "_echostream._udp"

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/>
    <allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""

DAEMON = """[server]
host-name=peer
allow-interfaces=near
disallow-other-stacks=no
[publish]
publish-hinfo=no
publish-workstation=no
"""

START = """
set -e
mkdir -p /run/avahi-daemon
mount -t tmpfs tmpfs /run/avahi-daemon
dbus-daemon --config-file={folder}/bus.conf --nofork --nopidfile &
until [ -S {folder}/bus ]; do sleep 0.02; done
exec avahi-daemon --no-drop-root --no-chroot --no-rlimits --file={folder}/avahi.conf
"""


@dataclass
class Peer:
    """The two machines: ours, and the one with avahi."""

    ours: tuple[str, ...]
    """What runs a command on our machine."""
    theirs: tuple[str, ...]
    environment: dict[str, str]
    stack: AsyncExitStack

    async def run(self, *command: str) -> Program:
        """Start a program of avahi's on its machine."""
        return await self.stack.enter_async_context(running(*self.theirs, *command, environment=self.environment))

    async def announce(self, service: str, *instances: str, probe_s: float = 0.3) -> Program:
        """Start our script on our machine."""
        return await self.stack.enter_async_context(announcer(service, *instances, prefix=self.ours, probe_s=probe_s))


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    need("avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon", "unshare")
    folder = Path(tempfile.mkdtemp(prefix="es"))  # a socket's path has 107 bytes at most
    (folder / "bus.conf").write_text(BUS.format(folder=folder))
    (folder / "avahi.conf").write_text(DAEMON)
    try:
        with cable(("10.77.0.2/24", "10.77.0.1/24")) as (ours, theirs):
            async with AsyncExitStack() as stack:
                daemon = await asyncio.create_subprocess_exec(
                    *("ip", "netns", "exec", theirs, "unshare", "--mount", "sh", "-c", START.format(folder=folder)),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus"},
                    start_new_session=True,
                )
                stack.push_async_callback(_ended, daemon)
                await Program(daemon).line("the daemon's start", lambda line: "Server startup complete" in line)
                environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus", "LC_ALL": "C.UTF-8"}
                yield Peer(("ip", "netns", "exec", ours), ("ip", "netns", "exec", theirs), environment, stack)
    finally:
        shutil.rmtree(folder)


async def _ended(daemon: asyncio.subprocess.Process) -> None:
    """End the daemon with its D-Bus: they are a process group of their own."""
    os.killpg(daemon.pid, signal.SIGKILL)
    await daemon.communicate()


def about(kind: str, label: str) -> Callable[[str], bool]:
    """A line of ``avahi-browse -p`` of this kind (``+``, ``=`` or ``-``), over IPv4, about this instance."""
    return lambda line: line.startswith(f"{kind};near;IPv4;{label};{TYPE};local")


async def test_avahi_sees_ours_with_text_port_and_address_and_its_goodbye(peer: Peer) -> None:
    browser = await peer.run("avahi-browse", "-rp", TYPE)
    ours = await peer.announce("calc", "node.eu", "Büro 2")
    line = await browser.line("our instance", about("=", r"calc\047B\195\188ro\0322"))
    *_, host, address, port, text = line.split(";")
    assert re.fullmatch(r"echostream-[0-9a-f]{12}\.local", host)
    assert (address, port) == ("10.77.0.2", "4433")
    shown = re.findall(r'"([^"]*)"', text)
    (revision,) = (item for item in shown if item.startswith("rev="))
    assert re.fullmatch(r"rev=[0-9a-f]{8}\.\d+", revision)
    assert {*shown} - {revision} == {
        "txtvers=1",
        "service=calc",
        "url1=quic://0.0.0.0:4433",
        "url2=tcp://[::]:4434",
        "@weight=7",
        r"@%5aone=B\195\188ro",
    }
    assert any(re.match(r"\+;near;IPv4;calc\\047node-eu-[0-9a-f]{8};", line) for line in browser.lines)
    await ours.finish()
    await browser.line("our goodbye", about("-", r"calc\047B\195\188ro\0322"))


async def test_avahi_is_seen_as_it_announces_changes_and_takes_back(peer: Peer) -> None:
    ours = await peer.announce("calc")
    await ours.line("an empty snapshot", lambda line: line.startswith("seen"))
    texts = ("txtvers=1", "service=calc", "url1=tcp://0.0.0.0:4455", "@weight=9")
    published = await peer.run("avahi-publish", "-s", "Living Room", TYPE, "4455", *texts)
    line = await ours.line("avahi's instance", lambda line: line.startswith("seen Living Room "))
    assert line == "seen Living Room tcp://10.77.0.1:4455 {'weight': '9'}"
    published.process.terminate()
    await ours.line("avahi's goodbye", lambda line: line.strip() == "seen")
    await ours.finish()


async def test_a_name_that_avahi_has_is_taken_and_one_of_ours_is_defended(peer: Peer) -> None:
    published = await peer.run(
        "avahi-publish", "-s", "calc/one", TYPE, "4455", "txtvers=1", "service=calc", "url1=tcp://0.0.0.0:4455"
    )
    await published.line("avahi's name", lambda line: "Established under name 'calc/one'" in line)
    # avahi says so at once and after one, three and seven seconds. For half a second after each it answers no probe and
    # gives its name away later. Of three probes with more than half a second in between it answers one, whenever they
    # begin.
    ours = await peer.announce("calc", "one", "two", probe_s=2.1)
    await ours.line("another name of ours", "announced one-2".__eq__)
    await ours.line("both", lambda line: "one tcp://10.77.0.1:4455" in line and "| one-2 quic://10.77.0.2:4433" in line)
    rival = await peer.run(
        "avahi-publish", "-s", "calc/two", TYPE, "4456", "txtvers=1", "service=calc", "url1=tcp://0.0.0.0:4456"
    )
    await rival.line("another name of avahi's", lambda line: "Established under name 'calc/two #2'" in line)
    await ours.finish()
