"""Hooks, one plugin at a time: what a plugin may and may not do."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.errors import PluginContractError
from echostream_core.hookspecs import hookimpl
from echostream_core.plugin_hooks import PluginHooks


def codec(name: str, **changes: Any) -> CodecSpec:
    return CodecSpec(name=name, factory=changes.pop("factory", lambda options: None), **changes)


def answering(answer: object) -> object:
    """A plugin whose codecs hook answers ``answer``."""

    class Plugin:
        @hookimpl
        def echostream_codecs(self) -> Any:
            return answer

    return Plugin()


def refused(plugin: object) -> PluginContractError:
    hooks = PluginHooks()
    with pytest.raises(PluginContractError) as caught:
        hooks.register(plugin, "the-plugin")
        hooks.specs("the-plugin")
    assert caught.value.plugin == "the-plugin"
    assert str(caught.value).startswith("E-HOOK: the-plugin: ")
    return caught.value


def test_a_module_is_a_plugin() -> None:
    module = ModuleType("some_plugin")

    @hookimpl
    def echostream_codecs() -> list[CodecSpec]:
        return [codec("c")]

    module.echostream_codecs = echostream_codecs  # type: ignore[attr-defined]  # made by hand
    hooks = PluginHooks()
    hooks.register(module, "m")
    assert hooks.implemented("m") == ("echostream_codecs",)
    assert [spec.name for spec in hooks.specs("m") if isinstance(spec, CodecSpec)] == ["c"]
    hooks.unregister("m")
    assert hooks.implemented("m") == ()
    hooks.unregister("m")


def test_a_misspelt_hook_is_refused_with_the_nearest() -> None:
    class Plugin:
        @hookimpl
        def echostream_codec(self) -> list[CodecSpec]:
            return []

    assert "there is no hook echostream_codec. Did you mean echostream_codecs?" in str(refused(Plugin()))


def test_a_misspelt_specname_is_refused() -> None:
    class Plugin:
        @hookimpl(specname="echostream_nothing_like_it")
        def codecs(self) -> list[CodecSpec]:
            return []

    assert "there is no hook echostream_nothing_like_it" in str(refused(Plugin()))


def test_a_hook_without_its_mark_is_refused() -> None:
    class Plugin:
        def echostream_codecs(self) -> list[CodecSpec]:
            return []

    assert "Put @hookimpl above it" in str(refused(Plugin()))


def test_a_wrapper_and_a_class_are_refused() -> None:
    class Wrapping:
        @hookimpl(wrapper=True)
        def echostream_codecs(self) -> Any:
            return (yield)

    class Fine:
        @hookimpl
        def echostream_codecs(self) -> list[CodecSpec]:
            return []

    assert "hook wrapper" in str(refused(Wrapping()))
    assert "is a class" in str(refused(Fine))


def test_an_argument_that_the_hook_does_not_have_is_refused() -> None:
    class Plugin:
        @hookimpl
        def echostream_codecs(self, loop: object) -> list[CodecSpec]:
            return []

    assert "loop" in str(refused(Plugin()))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (7, "answered int"),
        ("json", "answered str"),
        (["json"], "a list that holds str"),
        ([codec("a"), codec("a")], "offers the codec 'a' twice"),
        ([codec("")], "answered the name ''"),
        ([codec("with space")], "answered the name 'with space'"),
        ([codec("a", options=dict)], "no msgspec.Struct"),
        ([codec("a", factory=3)], "is not callable"),
    ],
)
def test_a_wrong_answer_is_refused(answer: object, said: str) -> None:
    assert said in str(refused(answering(answer)))


@pytest.mark.parametrize("kind", ["Codec", "codec", "transports", "plugins", "a-b", ""])
def test_a_component_of_an_odd_kind_is_refused(kind: str) -> None:
    class Plugin:
        @hookimpl
        def echostream_components(self) -> list[ComponentSpec]:
            return [ComponentSpec(kind=kind, name="x", factory=print)]

    assert f"answered the kind {kind!r}" in str(refused(Plugin()))


@pytest.mark.parametrize("raised", [ValueError("oh"), SystemExit("oh")])
def test_a_hook_that_raises_is_refused_cause_chained(raised: BaseException) -> None:
    class Plugin:
        @hookimpl
        def echostream_codecs(self) -> list[CodecSpec]:
            raise raised

    error = refused(Plugin())
    assert f"echostream_codecs raised {type(raised).__name__}: oh" in str(error)
    assert error.__cause__ is raised


def test_one_plugin_is_called_and_the_others_are_not() -> None:
    heard: list[str] = []

    class Listening:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def echostream_state_changed(self, event: object) -> None:
            heard.append(f"{self.name}: {event}")

    hooks = PluginHooks()
    hooks.register(Listening("one"), "one")
    hooks.register(Listening("two"), "two")
    hooks.call("two", "echostream_state_changed", event="started")
    hooks.call("nobody", "echostream_state_changed", event="started")
    assert heard == ["two: started"]


def test_no_answer_is_an_empty_one() -> None:
    hooks = PluginHooks()
    hooks.register(answering(None), "quiet")
    assert hooks.specs("quiet") == []


def test_a_library_may_be_a_plugin_without_hooks() -> None:
    hooks = PluginHooks()
    hooks.register(ModuleType("only_a_library"), "library")
    assert hooks.implemented("library") == ()
    assert hooks.specs("library") == []
