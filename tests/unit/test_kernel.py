"""The kernel: lookups, isolation, reports, notices."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.discovery import DiscoverySpec
from echostream_core.errors import (
    ConfigError,
    PluginConflict,
    PluginContractError,
    PluginError,
    PluginImportFailed,
    PluginIndexMismatch,
    PluginNotFound,
)
from echostream_core.hookspecs import hookimpl
from echostream_core.index import scan
from echostream_core.kernel import ConfigDiff, Kernel, PluginSettings, StateEvent, default_kernel
from echostream_core.middleware import MiddlewareSpec
from tests.plugins.installed import Distribution, transport_plugin

MakeKernel = Callable[..., Kernel]


@pytest.fixture
def kernel_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeKernel]:
    """Makes a kernel that finds the given distributions, and nothing else that is installed."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(*distributions: Distribution, **settings: Any) -> Kernel:
        for distribution in distributions:
            distribution.install(tmp_path)
        return Kernel(PluginSettings(**settings), index=scan([str(tmp_path)], refresh=True))

    yield make
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]


class Codecs:
    """A plugin in code that offers codecs: name → priority."""

    def __init__(self, **priorities: int) -> None:
        self.priorities = priorities

    @hookimpl
    def echostream_codecs(self) -> Sequence[CodecSpec]:
        return [
            CodecSpec(name=name, factory=lambda options: NotImplemented, priority=priority)
            for name, priority in self.priorities.items()
        ]


class Notified:
    """A plugin in code that hears everything, and offers one of each kind."""

    def __init__(self, *, fails: bool = False) -> None:
        self.heard: list[object] = []
        self.fails = fails

    @hookimpl
    def echostream_discovery(self) -> Sequence[DiscoverySpec]:
        return [DiscoverySpec(name="finder", factory=lambda options: NotImplemented)]

    @hookimpl
    def echostream_middleware(self) -> Sequence[MiddlewareSpec]:
        return [MiddlewareSpec(name="layer", factory=lambda options: NotImplemented)]

    @hookimpl
    def echostream_components(self) -> Sequence[ComponentSpec]:
        return [ComponentSpec(kind="command", name="run", factory=print)]

    @hookimpl
    def echostream_kernel_ready(self, kernel: Kernel) -> None:
        self.note(kernel)

    @hookimpl
    def echostream_validate_config(self, diff: ConfigDiff) -> Any:
        self.note(diff)
        return ["server.a: too loud"]

    @hookimpl
    def echostream_state_changed(self, event: StateEvent) -> None:
        self.note(event)

    def note(self, what: object) -> None:
        self.heard.append(what)
        if self.fails:
            raise RuntimeError("deaf")


def test_a_plugin_is_imported_when_it_is_looked_up(kernel_with: MakeKernel) -> None:
    kernel = kernel_with(transport_plugin("fake-one", "one"), transport_plugin("fake-two", "two"))
    assert kernel.known("transport") == kernel.known("transports") == ("memory", "one", "two")
    assert not {"fake_one", "fake_two"} & set(sys.modules)
    spec = kernel.transport("one")
    assert spec.scheme == "one" and kernel.transport("one") is spec
    assert "fake_one" in sys.modules and "fake_two" not in sys.modules
    assert {report.name: report.state for report in kernel.plugins()} == {
        "memory": "indexed",
        "json": "indexed",
        "fake_one": "loaded",
        "fake_two": "indexed",
    }


def test_built_ins_come_through_the_same_hooks(kernel_with: MakeKernel) -> None:
    kernel = kernel_with()
    assert kernel.transport("memory").capabilities.in_process
    assert kernel.codec("json").name == "json"
    reports = {report.name: report for report in kernel.plugins()}
    assert reports["memory"].builtin and reports["memory"].hooks == ("echostream_transports",)
    assert reports["json"].provides == ("codec.json",)


def test_an_unknown_key_names_what_there_is(kernel_with: MakeKernel) -> None:
    with pytest.raises(PluginNotFound) as caught:
        kernel_with(transport_plugin("fake-one", "one")).transport("onne")
    assert caught.value.known == ("memory", "one") and caught.value.closest == "one"


def test_a_broken_plugin_fails_each_time_with_the_same_error_and_takes_nobody_down(
    kernel_with: MakeKernel,
) -> None:
    broken = Distribution(
        name="fake-broken",
        source="raise ImportError('no')",
        entry_points={"v1.plugins": {"b": "fake_broken"}, "v1.transports": {"broken": "fake_broken"}},
    )
    kernel = kernel_with(broken, transport_plugin("fake-good", "good"))
    errors = []
    for _ in range(2):
        with pytest.raises(PluginImportFailed) as caught:
            kernel.transport("broken")
        errors.append(caught.value)
    assert errors[0] is errors[1]
    assert kernel.transport("good").scheme == "good"
    states = {report.distribution: (report.state, report.code) for report in kernel.check()}
    assert states["fake-broken"] == ("failed", "E-IMPORT")
    assert states["fake-good"] == ("loaded", "")


def test_an_index_that_promises_too_much_disables_the_plugin(kernel_with: MakeKernel) -> None:
    kernel = kernel_with(transport_plugin("fake-liar", "real", promised=["real", "unreal"]))
    with pytest.raises(PluginIndexMismatch, match="promise the transport 'unreal', its hooks give transport"):
        kernel.transport("real")
    assert kernel.registry.of("transport", "real") == ()


def test_an_index_that_promises_too_little_is_noted(kernel_with: MakeKernel) -> None:
    kernel = kernel_with(transport_plugin("fake-modest", "shown", "hidden", promised=["shown"]))
    with pytest.raises(PluginNotFound):
        kernel.transport("hidden")
    kernel.transport("shown")
    assert kernel.transport("hidden").scheme == "hidden"
    (report,) = (report for report in kernel.plugins() if report.name == "fake_modest")
    assert report.ok and "'hidden' is not in its entry points" in report.notes[0]


def test_two_providers_are_an_error_only_when_used(kernel_with: MakeKernel) -> None:
    distributions = transport_plugin("fake-one", "shared", "one"), transport_plugin("fake-two", "shared")
    kernel = kernel_with(*distributions)
    assert kernel.transport("one").scheme == "one"
    with pytest.raises(PluginConflict):
        kernel.transport("shared")
    assert "fake_two" not in sys.modules
    reports = {report.distribution: report for report in kernel.check()}
    assert reports["fake-two"].code == "E-AMBIGUOUS" and reports["fake-two"].state == "loaded"
    settled = Kernel(
        PluginSettings(prefer={"shared": "fake-two"}),
        index=scan([str(Path(sys.modules["fake_one"].__file__ or "").parent)]),
    )
    assert settled.transport("shared").scheme == "shared"
    states = {report.distribution: report.state for report in settled.plugins()}
    assert states["fake-two"] == "loaded" and states["fake-one"] == "indexed"


def test_blocked_and_not_allowed_plugins_stay_out(kernel_with: MakeKernel) -> None:
    kernel = kernel_with(transport_plugin("fake-one", "one"), autoload="none")
    assert kernel.known("transport") == ("memory",)
    with pytest.raises(PluginNotFound, match='autoload is "none"'):
        kernel.transport("one")
    (report,) = (report for report in kernel.check() if report.name == "fake_one")
    assert report.state == "blocked" and report.ok and "fake_one" not in sys.modules
    assert kernel.transport("memory").scheme == "memory"


def test_an_allowed_plugin_is_loaded_on_use(kernel_with: MakeKernel) -> None:
    kernel = kernel_with(transport_plugin("fake-one", "one"), autoload="none", allow=("fake-one",))
    assert kernel.transport("one").scheme == "one"


def test_autoload_all_loads_everything_when_the_kernel_is_ready(
    kernel_with: MakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Distribution(name="fake-broken", source="1/0", entry_points={"v1.plugins": {"b": "fake_broken"}})
    kernel = kernel_with(transport_plugin("fake-one", "one"), broken, autoload="all")
    assert "fake_one" not in sys.modules
    with caplog.at_level(logging.WARNING):
        kernel.ready()
        kernel.ready()
    assert "fake_one" in sys.modules
    assert [record.message for record in caplog.records if "E-IMPORT" in record.message][1:] == []
    assert "ZeroDivisionError" in caplog.text


def test_default_codecs_are_ordered_and_leave_broken_ones_out(
    kernel_with: MakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Distribution(
        name="fake-codec",
        source="1/0",
        entry_points={"v1.plugins": {"b": "fake_codec"}, "v1.codecs": {"broken": "fake_codec"}},
    )
    kernel = kernel_with(broken)
    kernel.register(Codecs(zeta=5, alpha=5, low=-1), name="more")
    for _ in range(2):
        assert [spec.name for spec in kernel.default_codecs()] == ["alpha", "zeta", "json", "low"]
    assert caplog.text.count("E-IMPORT") == 1


def test_default_codecs_keep_the_kernels_own_beside_a_competitor(kernel_with: MakeKernel) -> None:
    rival = Distribution(
        name="fake-rival",
        source="raise AssertionError('not to be imported')",
        entry_points={"v1.codecs": {"json": "fake_rival"}},
    )
    kernel = kernel_with(rival)
    assert [spec.name for spec in kernel.default_codecs()] == ["json"]
    with pytest.raises(PluginConflict):
        kernel.codec("json")


def test_plugins_in_code_offer_every_kind(kernel_with: MakeKernel) -> None:
    kernel = kernel_with()
    report = kernel.register(Notified(), name="all of it")
    assert report.state == "loaded" and report.reference == "" and report.notes == ()
    assert kernel.discovery("finder").name == "finder" and kernel.discovery_names() == ("finder",)
    assert kernel.middleware("layer").name == "layer"
    assert kernel.component("command", "run").factory is print
    assert [spec.name for spec in kernel.components("command")] == ["run"]
    assert kernel.components("resource") == []
    assert kernel.kinds() == ("codec", "command", "discovery", "middleware", "transport")
    assert kernel.spec("middleware", "layer") is kernel.middleware("layer")


def test_a_plugin_in_code_wins_over_an_installed_one(kernel_with: MakeKernel) -> None:
    kernel = kernel_with()
    kernel.register(Codecs(json=9), name="mine")
    assert kernel.codec("json").priority == 9
    kernel.register(Codecs(json=8), name="yours")
    with pytest.raises(PluginConflict, match="mine and yours"):
        kernel.codec("json")


def test_a_bad_plugin_in_code_is_refused_whole(kernel_with: MakeKernel) -> None:
    class Misspelt:
        @hookimpl
        def echostream_transport(self) -> list[object]:
            return []

    kernel = kernel_with()
    before = kernel.plugins()
    with pytest.raises(PluginContractError):
        kernel.register(Misspelt(), name="bad")
    with pytest.raises(PluginContractError, match="it implements no hook"):
        kernel.register(object(), name="bad")
    assert kernel.plugins() == before
    kernel.register(Codecs(c=1), name="bad")
    with pytest.raises(PluginContractError, match="the name 'bad' is taken"):
        kernel.register(Codecs(d=1), name="bad")


def test_components_that_do_not_work_are_left_out(kernel_with: MakeKernel, caplog: pytest.LogCaptureFixture) -> None:
    broken = Distribution(name="fake-command", source="1/0", entry_points={"v1.command": {"explode": "fake_command"}})
    kernel = kernel_with(broken)
    kernel.register(Notified(), name="n")
    assert kernel.known("command") == ("explode", "run")
    assert [spec.name for spec in kernel.components("command")] == ["run"]
    assert "E-IMPORT" in caplog.text


def test_component_is_for_other_kinds(kernel_with: MakeKernel) -> None:
    with pytest.raises(TypeError, match=r"Kernel\.transport"):
        kernel_with().component("transport", "memory")


def test_why_tells_the_steps(kernel_with: MakeKernel) -> None:
    kernel = kernel_with(transport_plugin("fake-one", "one", requires=["no-such-library"]))
    assert kernel.why("transport", "memory")[-1] == "transport memory is provided by echostream-core/memory"
    steps = kernel.why("transports", "one")
    assert steps[:2] == ["the index lists: fake-one/fake_one", "chosen: fake-one/fake_one"]
    assert steps[-1].startswith("E-MISSING-DEP")
    unpublished = kernel.why("transport", "quic")
    assert unpublished[:2] == ["the index lists: nobody", "we publish it as echostream-quic"]


def test_options_are_built_from_a_section(kernel_with: MakeKernel) -> None:
    kernel = kernel_with(transport_plugin("fake-one", "one"))
    spec = kernel.transport("one")
    assert isinstance(kernel.build_options(spec, None, key="transport.one"), msgspec.Struct)
    with pytest.raises(ConfigError, match=r"transport\.one\.speed: there is no such setting"):
        kernel.build_options(spec, {"speed": 3}, key="transport.one")


def test_ready_reaches_every_plugin_once_and_later_ones_at_once(kernel_with: MakeKernel) -> None:
    kernel, first, failing, last = kernel_with(), Notified(), Notified(fails=True), Codecs(c=1)
    kernel.register(first, name="first")
    kernel.register(last, name="last")
    kernel.ready()
    assert first.heard == [kernel]
    kernel.register(failing, name="late")
    assert failing.heard == [kernel]
    (report,) = (report for report in kernel.plugins() if report.name == "late")
    assert (report.state, report.code) == ("failed", "E-HOOK")
    assert kernel.discovery_names() == ("finder",)  # the first one's


def test_ready_disables_only_who_fails(kernel_with: MakeKernel) -> None:
    kernel, failing, good = kernel_with(), Notified(fails=True), Codecs(c=1)
    kernel.register(failing, name="failing")
    kernel.register(good, name="good")
    kernel.ready()
    assert kernel.codec("c").name == "c"
    with pytest.raises(PluginNotFound):
        kernel.middleware("layer")


def test_objections_are_collected_and_an_exception_is_one(kernel_with: MakeKernel) -> None:
    kernel, calm, failing = kernel_with(), Notified(), Notified(fails=True)
    kernel.register(calm, name="calm")
    kernel.register(failing, name="failing")
    diff = ConfigDiff(old=None, new=None)  # type: ignore[arg-type]  # these plugins do not look at it
    problems = kernel.validate(diff)
    assert problems[0] == "server.a: too loud"
    assert "echostream_validate_config raised RuntimeError: deaf" in problems[1]
    assert calm.heard == [diff]


def test_an_answer_that_is_no_list_is_an_objection(kernel_with: MakeKernel) -> None:
    class Odd:
        def __init__(self, answer: object) -> None:
            self.answer = answer

        @hookimpl
        def echostream_validate_config(self, diff: ConfigDiff) -> Any:
            return self.answer

    kernel = kernel_with()
    answers: list[object] = [None, [], "one text", 7]
    for number, answer in enumerate(answers):
        kernel.register(Odd(answer), name=f"odd{number}")
    problems = kernel.validate(ConfigDiff(old=None, new=None))  # type: ignore[arg-type]  # not looked at
    assert problems[0] == "one text" and "answered no list of texts" in problems[1] and len(problems) == 2


def test_changes_of_state_are_announced_and_failures_logged(
    kernel_with: MakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel, failing, good = kernel_with(), Notified(fails=True), Notified()
    kernel.register(failing, name="failing")
    kernel.register(good, name="good")
    event = StateEvent(kind="server", name="public", state="serving")
    kernel.announce(event)
    assert good.heard == [event]
    assert "plugin failing failed on the state serving of public" in caplog.text


def test_reports_are_plain_data(kernel_with: MakeKernel) -> None:
    source = {"url": "file:///home/me/fake", "dir_info": {"editable": True}}
    plugin = Distribution(
        name="fake-local", version="3.1", direct_url=source, entry_points={"v1.plugins": {"l": "fake_local"}}
    )
    (report,) = (report for report in kernel_with(plugin).plugins() if report.name == "l")
    shown = report.as_dict()
    assert re.fullmatch(r'entry point l = "fake_local", file .*fake_local\.py', str(shown.pop("where")))
    assert shown == {
        "name": "l",
        "distribution": "fake-local",
        "version": "3.1",
        "state": "indexed",
        "code": "",
        "problem": "",
        "fix": "",
        "reference": "fake_local",
        "origin": "file:///home/me/fake",
        "editable": True,
        "builtin": False,
        "provides": (),
        "hooks": (),
        "notes": (),
    }


def test_kernels_are_apart(kernel_with: MakeKernel) -> None:
    one, other = kernel_with(), kernel_with()
    one.register(Codecs(c=1), name="c")
    with pytest.raises(PluginError):
        other.codec("c")


def test_the_default_kernel_is_one() -> None:
    assert default_kernel() is default_kernel()


def test_an_installed_library_without_hooks_is_no_error(kernel_with: MakeKernel) -> None:
    library = Distribution(name="fake-library", source="x = 1", entry_points={"v1.plugins": {"lib": "fake_library"}})
    (report,) = (report for report in kernel_with(library).check() if report.name == "lib")
    assert report.ok and report.state == "loaded" and report.notes == ("it implements no hook",)
