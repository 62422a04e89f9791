"""``echostream discover``, with a backend whose network is a file: what stands in it is announced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugins.cli.tests.conftest import Done, install, process

BACKEND = """\
import asyncio
import json
import os
from pathlib import Path

import msgspec

from echostream_core import Endpoint, hookimpl
from echostream_core.discovery import Discovery, DiscoverySpec


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str = os.environ.get("ANNOUNCED", "")


class Table(Discovery):
    def __init__(self, options):
        self.file = Path(options.file)

    async def announce(self, endpoint):
        raise NotImplementedError

    async def watch(self, service=None):
        told = None
        while True:
            text = self.file.read_text()
            if text != told:
                told = text
                found = [Endpoint(**{**one, "urls": tuple(one["urls"])}) for one in json.loads(text)]
                yield [one for one in found if service in (None, one.service)]
            await asyncio.sleep(0.02)

    async def suspect(self, endpoint):
        pass

    async def close(self):
        pass


@hookimpl
def echostream_discovery():
    return [DiscoverySpec(name="table", factory=Table, options=Options)]
"""


def announced(instance: str, service: str = "calc", **attributes: str) -> dict[str, Any]:
    return {
        "service": service,
        "instance": instance,
        "urls": ["tcp://127.0.0.1:1", "ws://127.0.0.1:2"],
        "attributes": attributes,
    }


class Network:
    """What is announced, and the command in its midst."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "announced.json"
        self.announce()
        groups = {"plugins": {"acme_table": "acme_table"}, "discovery": {"table": "acme_table"}}
        install(folder / "site", "acme-table", BACKEND, groups)
        self.environ = {"PYTHONPATH": str(folder / "site"), "ANNOUNCED": str(self.file)}

    def announce(self, *endpoints: dict[str, Any]) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(endpoints), encoding="utf-8")
        os.replace(fresh, self.file)

    def run(self, *arguments: str) -> Done:
        options = ("--backend", "table", "--timeout", "0.3")
        done = process("discover", *arguments, *options, folder=self.folder, environ=self.environ)
        assert "Traceback" not in done.err
        return done


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(tmp_path)


def test_all_services_are_listed_by_name_with_what_they_offer(network: Network) -> None:
    network.announce(announced("two", zone="eu"), announced("one", "audio"))
    done = network.run()
    assert (done.status, done.err) == (0, "")
    header, audio, calc = done.out.splitlines()
    assert header.split() == ["SERVICE", "INSTANCE", "URLS", "ATTRIBUTES"]
    assert audio.split()[:2] == ["audio", "one"]
    assert calc.split() == ["calc", "two", "tcp://127.0.0.1:1", "ws://127.0.0.1:2", "zone=eu"]


def test_one_service_with_attributes_as_json(network: Network) -> None:
    network.announce(announced("eu", zone="eu"), announced("us", zone="us"), announced("eu", "audio", zone="eu"))
    done = network.run("calc", "--where", "zone=eu", "--where", "zone=at", "--json")
    assert done.status == 0
    assert json.loads(done.out) == [announced("eu", zone="eu")]


def test_nothing_found_is_said_and_told_by_the_status(network: Network) -> None:
    done = network.run("calc", "--where", "zone=eu")
    assert (done.status, done.out) == (1, "")
    assert done.err == "no server that advertises 'calc' was found within 0.3 s with these attributes\n"
    done = network.run("--json")
    assert (done.status, json.loads(done.out)) == (1, [])
    assert done.err == "no server was found within 0.3 s\n"


def test_what_others_announce_cannot_write_to_the_terminal(network: Network) -> None:
    network.announce(announced("evil\x1b[2J\n", note="\x07"))
    done = network.run()
    assert done.status == 0 and "\x1b" not in done.out and "\x07" not in done.out
    assert len(done.out.splitlines()) == 2 and "evil\\x1b[2J\\n" in done.out and "note=\\x07" in done.out


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--where", "zone"), 2, "--where: write KEY=VALUE, not 'zone'"),
        (("--backend", "nothing"), 1, "no plugin provides the discovery 'nothing'"),
        (("--set", "discovery.table.fiel=x"), 1, "did you mean 'file'?"),
        (("--timeout", "0"), 2, "--timeout"),
    ],
    ids=["where", "backend", "option", "timeout"],
)
def test_what_is_wrong_is_said(network: Network, arguments: tuple[str, ...], status: int, text: str) -> None:
    command = ("discover", "--backend", "table", *arguments)
    done = process(*command, folder=network.folder, environ=network.environ)
    assert (done.status, done.out) == (status, "")
    assert text in done.err and "Traceback" not in done.err


def test_one_of_several_backends_is_chosen_by_an_option_that_is_named(network: Network) -> None:
    groups = {"plugins": {"acme_spare": "acme_spare"}, "discovery": {"spare": "acme_spare"}}
    install(network.folder / "site", "acme-spare", BACKEND, groups)
    done = process("discover", folder=network.folder, environ=network.environ)
    assert (done.status, done.out) == (2, "")
    assert "several discovery backends are installed: " in done.err and "name one with --backend" in done.err


def test_watching_tells_what_comes_changes_and_goes(network: Network) -> None:
    network.announce(announced("one"))
    command = [sys.executable, "-m", "echostream_cli", "discover", "calc", "--watch", "--backend", "table", "--json"]
    environ = {**os.environ, **network.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as program:
        assert program.stdout is not None and program.stderr is not None
        output = program.stdout

        def change() -> tuple[str, str]:
            line = json.loads(output.readline())
            return line["change"], line["instance"]

        assert change() == ("found", "one")
        network.announce(announced("one"), announced("two"))
        assert change() == ("found", "two")
        network.announce(announced("one", weight="5"), announced("two"))
        assert change() == ("changed", "one")
        network.announce(announced("two"))
        assert change() == ("gone", "one")
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=40) == 130
        assert "Traceback" not in program.stderr.read()
