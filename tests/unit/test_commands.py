"""The functions behind the command lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from echostream_core import (
    ConfigError,
    DeadlineExceeded,
    Kernel,
    RpcClient,
    RpcError,
    RpcServer,
    StatusCode,
    handler,
    hookimpl,
)
from echostream_core.__main__ import main
from echostream_core.commands import (
    CallRequest,
    ExitStatus,
    UsageError,
    aligned,
    call,
    check_config,
    dial,
    inspect_plugin,
    make_kernel,
    plugin_rows,
    show_config,
    verdict_rows,
    why,
)
from echostream_core.discovery import Discovery, DiscoverySpec
from echostream_core.plugin_reports import PluginReport


@handler("twice")
def twice(number: int) -> int:
    return 2 * number


@handler("count")
async def count(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


@handler("forever")
async def forever() -> None:
    await asyncio.Event().wait()


def report(**changes: object) -> PluginReport:
    """A report on a plugin that is well, but for the changes."""
    values = {"name": "plug", "distribution": "acme", "version": "1.0", "state": "indexed"}
    return msgspec.convert({**values, **changes}, PluginReport)


async def answers(client: RpcClient, request: CallRequest) -> list[object]:
    return [item async for item in call(client, request)]


@pytest.mark.parametrize("stream", [None, False])
async def test_a_call_yields_one_answer(stream: bool | None) -> None:
    async with RpcServer("memory://commands", twice), dial("memory://commands") as client:
        assert await answers(client, CallRequest(method="twice", payload=4, stream=stream)) == [8]


@pytest.mark.parametrize("stream", [None, True])
async def test_a_generator_yields_its_items_whether_or_not_that_was_said(stream: bool | None) -> None:
    async with RpcServer("memory://commands", count), dial("memory://commands") as client:
        assert await answers(client, CallRequest(method="count", payload=3, stream=stream)) == [0, 1, 2]


@pytest.mark.parametrize(("method", "stream"), [("count", False), ("missing", None)])
async def test_what_cannot_be_called_keeps_its_error(method: str, stream: bool | None) -> None:
    async with RpcServer("memory://commands", count), dial("memory://commands") as client:
        with pytest.raises(RpcError) as caught:
            await answers(client, CallRequest(method=method, payload=3, stream=stream))
    assert caught.value.code is StatusCode.UNIMPLEMENTED


async def test_dial_takes_a_client_from_a_configuration_and_changes_it(tmp_path: Path) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text('[client.one]\nurl = "memory://nobody"\ncodecs = "missing"\n', encoding="utf-8")
    connecting = dial(files=[file], name="one", codecs=["json"], overrides=["client.one.url=memory://commands"])
    async with RpcServer("memory://commands", twice), connecting as client:
        assert await client.request("twice", 2) == 4


async def test_settings_are_not_forgotten_beside_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM__CLIENT__ONE__LIMITS__MAX_STREAMS", "of another client")
    with pytest.raises(ConfigError, match=r"transport\.memory\.max_strems: there is no such setting; did you mean"):
        dial("memory://commands", overrides=["transport.memory.max_strems=1"])
    connecting = dial("memory://commands", codecs=["json"], overrides=["client.command_line.timeout_s=0.01"])
    async with RpcServer("memory://commands", forever), connecting as client:
        with pytest.raises(DeadlineExceeded):
            await client.request("forever")


def test_columns_are_aligned_and_lines_end_with_their_text() -> None:
    assert aligned([["a", "long word", "x"], ["bcd", "-", ""]]) == ["a    long word  x", "bcd  -"]
    assert aligned([]) == []


def test_rows_show_problems_only_where_there_are_some() -> None:
    assert plugin_rows([report()])[0] == ["name", "distribution", "version", "provides"]
    rows = plugin_rows([report(provides=["codec.x", "codec.y"]), report(code="E-AMBIGUOUS", problem="two offer x")])
    assert rows[1] == ["plug", "acme", "1.0", "codec.x, codec.y", "-"]
    assert rows[2] == ["plug", "acme", "1.0", "-", "E-AMBIGUOUS: two offer x"]


def test_a_verdict_is_ok_blocked_or_the_code() -> None:
    reports = [
        report(),
        report(state="blocked", problem="block lists it"),
        report(state="failed", code="E-IMPORT", problem="it raised", fix="Mend it"),
        report(distribution="", version="", notes=["a remark"]),
    ]
    assert verdict_rows(reports)[1:] == [
        ["ok", "acme/plug", "1.0", "-"],
        ["blocked", "acme/plug", "1.0", "block lists it"],
        ["E-IMPORT", "acme/plug", "1.0", "it raised. Mend it"],
        ["ok", "plug", "-", "a remark"],
    ]


def test_a_plugin_is_inspected_by_its_key() -> None:
    found = inspect_plugin(Kernel(), "transport.memory")
    assert (found["name"], found["state"], found["builtin"]) == ("memory", "loaded", True)
    (offer,) = json.loads(json.dumps(found))["offers"]
    assert offer["capabilities"]["streams"] == "native"


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    interfaces: Literal["all"] | list[Annotated[str, msgspec.Meta(min_length=1)]] = "all"
    pairs: tuple[int, ...] = ()
    pages: dict[str, str | None] = {}


def no_backend(options: Tables) -> Discovery:
    raise NotImplementedError


class Plug:
    @hookimpl
    def echostream_discovery(self) -> list[DiscoverySpec]:
        return [DiscoverySpec(name="table", factory=no_backend, options=Tables)]


def test_types_of_options_are_shown_as_they_are_written() -> None:
    kernel = Kernel()
    kernel.register(Plug(), name="plug")
    (offer,) = json.loads(json.dumps(inspect_plugin(kernel, "discovery.table")))["offers"]
    types = {option["name"]: option["type"] for option in offer["options"]}
    assert types == {
        "interfaces": "'all' | list[str]",
        "pairs": "tuple[int, ...]",
        "pages": "dict[str, str | None]",
    }


def test_an_unknown_plugin_is_a_usage_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'memory'"):
        inspect_plugin(Kernel(), "memori")


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("memory", None, ("transport", "memory", True)),
        ("memory://x", None, ("transport", "memory", True)),
        ("codec.json", None, ("codec", "json", True)),
        ("codecs.json", None, ("codec", "json", True)),
        ("json", "codecs", ("codec", "json", True)),
        ("memory", "codec", ("codec", "memory", False)),
        ("nobody", None, ("transport", "nobody", False)),
    ],
)
def test_why_finds_the_kind_of_a_name(name: str, kind: str | None, found: tuple[str, str, bool]) -> None:
    answer = why(Kernel(), name, kind)
    assert (answer["kind"], answer["name"], answer["resolved"]) == found
    assert answer["steps"]


def test_without_a_file_only_the_plugins_part_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM__SERVER__X__DRAIN_S", "1")
    monkeypatch.setenv("ECHOSTREAM__PLUGINS__BLOCK", "acme")
    assert make_kernel().settings.block == ("acme",)


def test_every_problem_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text('[server.x]\nlisten = "memory://x"\ndrain_z = 1\nlimmits = {}\n', encoding="utf-8")
    problems = check_config([file])
    assert len(problems) == 2
    assert all(problem.startswith(f"{file}: server.x.") for problem in problems)
    assert check_config([tmp_path / "nowhere.toml"]) == [
        f"{tmp_path / 'nowhere.toml'}: cannot be read: No such file or directory"
    ]


PROGRAM = """\
import asyncio
from echostream_core import handler, run
@handler("a")
def a() -> int:
    return 1
async def main() -> None:
    raise AssertionError("it runs")
program = main()
try:
    {run}(program)
finally:
    program.close()
"""


@pytest.mark.parametrize("run", ["run", "asyncio.run"])
def test_checking_a_configuration_runs_no_program(tmp_path: Path, run: str) -> None:
    name = f"program_of_the_test_{len(run)}"
    (tmp_path / f"{name}.py").write_text(PROGRAM.format(run=run), encoding="utf-8")
    file = tmp_path / "echostream.toml"
    file.write_text(f'[server.x]\nlisten = "memory://x"\nservices = "{name}:a"\n', encoding="utf-8")
    (problem,) = check_config([file])
    assert problem.startswith(f"server.x.services: importing '{name}' (from '{name}:a') raised RuntimeError: ")
    if run == "run":
        assert 'below if __name__ == "__main__":' in problem


def test_settings_are_shown_with_their_source(tmp_path: Path) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text('[server.x]\nlisten = "memory://x"\n', encoding="utf-8")
    rows = {row["key"]: row for row in show_config([file], ["server.x.drain_s=3"])}
    assert rows["server.x.drain_s"] == {"key": "server.x.drain_s", "value": 3.0, "source": "command line"}
    assert rows["server.x.listen"]["source"] == str(file)


# The kernel's own command line.


def test_the_kernel_alone_lists_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list"]) == ExitStatus.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "DISTRIBUTION", "VERSION", "PROVIDES"]
    assert any(line.startswith("memory ") for line in lines)
    assert main(["plugins", "list", "--json"]) == ExitStatus.OK
    assert {"memory", "json"} <= {item["name"] for item in json.loads(capsys.readouterr().out)}


def test_the_kernel_alone_checks_plugins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text('[plugins]\nautoload = "none"\nallow = "echostream-core"\n', encoding="utf-8")
    assert main(["plugins", "check", "--config", str(file)]) == ExitStatus.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["ok", "echostream-core/memory"],
        ["ok", "echostream-core/json"],
    ]
    assert main(["plugins", "check", "--config", str(file), "--json"]) == ExitStatus.OK
    assert json.loads(capsys.readouterr().out)[0]["state"] == "loaded"


def test_a_mistake_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list", "--config", "nowhere.toml"]) == ExitStatus.FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: nowhere.toml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("arguments", [[], ["plugins"], ["nonsense"], ["serve"]])
def test_a_senseless_command_line_has_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == ExitStatus.USAGE
    assert "usage: python -m echostream_core" in capsys.readouterr().err


def test_the_help_has_the_statuses_and_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for option, text in (("--help", "130 interrupted"), ("--version", "echostream-core ")):
        with pytest.raises(SystemExit) as end:
            main([option])
        assert end.value.code == ExitStatus.OK
        assert text in " ".join(capsys.readouterr().out.split())
