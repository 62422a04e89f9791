"""What every kind of plugin is asked about its spec: name, summary, options, and what importing it costs.

The suites for codecs, discovery backends and middleware build on :class:`SpecChecks`. A check is a method named
``test_…`` that needs nothing but ``self``, so that a program can run it as well as pytest.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import pytest

from echostream_core.codec import CodecSpec
from echostream_core.discovery import DiscoverySpec
from echostream_core.errors import ConfigError
from echostream_core.hookspecs import hookimpl
from echostream_core.kernel import Kernel
from echostream_core.middleware import MiddlewareSpec
from echostream_core.options import convert_options

__all__ = ["SpecChecks", "async_checks"]

C = TypeVar("C", bound=type)
AnySpec = CodecSpec | DiscoverySpec | MiddlewareSpec

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_MAX_SUMMARY: Final = 120
"""Characters: it stands on one line of ``echostream plugins list``."""

_FRESH: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import echostream_core.kernel, echostream_core.middleware, echostream_core.discovery, echostream_core.codec
before = set(sys.modules)
__import__(sys.argv[2])
print(json.dumps(sorted(set(sys.modules) - before)))
"""
"""What a module loads beside the kernel, in an interpreter that has loaded nothing else."""

_TEST_LIBRARIES: Final = frozenset({"_pytest", "hypothesis", "pytest", "unittest"})


def async_checks(cls: C) -> C:
    """Mark the ``async`` checks of a class for pytest-asyncio, so that they also run in its strict mode."""
    for name, member in vars(cls).items():
        if name.startswith("test_") and inspect.iscoroutinefunction(member):
            pytest.mark.asyncio(member)
    return cls


class SpecChecks:
    """A suite's subject, and the checks that are the same for every kind. Suites say ``kind``; users the rest."""

    kind: ClassVar[str] = ""
    """``codec``, ``discovery`` or ``middleware``: the section of the configuration."""
    name: ClassVar[str] = ""
    """The key under which the plugin is installed."""
    options: ClassVar[Mapping[str, object]] = {}
    """The section ``[KIND.NAME]`` as plain data: what the plugin is tested with."""
    known_gaps: ClassVar[Mapping[str, str]] = {}
    """Check (``test_…``) → why it fails. Strict: a gap that passes is a failure."""
    import_budget: ClassVar[int] = 64
    """How many modules importing the plugin may load beside the kernel's own."""

    def spec(self) -> AnySpec:
        """The spec under test: the one that the kernel finds. Override it to test one that is not installed."""
        found = Kernel().spec(self.kind, self.name)
        assert isinstance(found, CodecSpec | DiscoverySpec | MiddlewareSpec)
        return found

    def option_struct(self, changes: Mapping[str, object] | None = None) -> msgspec.Struct:
        """``options`` with ``changes``, validated as the kernel does it. ConfigError names a wrong key."""
        given = {**self.options, **(changes or {})}
        return convert_options(self.spec().options, given, key=f"{self.kind}.{self.name}")

    def product(self) -> object:
        """What the factory makes of ``options``."""
        return self.spec().factory(self.option_struct())

    def test_name_and_summary(self) -> None:
        """The name is the key it is installed under; the summary is one short line."""
        spec = self.spec()
        assert spec.name == self.name, f"{self.kind} {self.name!r} has a spec that is named {spec.name!r}"
        assert _NAME.fullmatch(spec.name), f"{spec.name!r}: write lower-case words joined by - or _"
        assert spec.summary.strip() == spec.summary != "", "the spec has no summary: say in one line what it is"
        assert spec.summary.isprintable() and len(spec.summary) <= _MAX_SUMMARY, (
            f"the summary is no single line of at most {_MAX_SUMMARY} characters: {spec.summary!r}"
        )

    def test_the_kernel_takes_the_spec(self) -> None:
        """Handed over by a hook, the spec is registered and found under its name."""
        spec = self.spec()
        kernel = Kernel()
        kernel.register(_offering(spec), name="conformance")
        assert kernel.spec(self.kind, self.name) is spec

    def test_options_have_valid_defaults(self) -> None:
        """Each default passes the schema that it stands in, and the factory takes what the schema lets pass."""
        spec = self.spec()
        assert issubclass(spec.options, msgspec.Struct)
        assert spec.options.__struct_config__.frozen, f"{spec.options.__name__}: declare it with frozen=True"
        if not any(field.required for field in msgspec.structs.fields(spec.options)):
            spec.factory(convert_options(spec.options, {}, key=self.kind))
        for name, value in _defaults(spec.options).items():
            try:
                self.option_struct({name: msgspec.to_builtins(value)})
            except ConfigError as error:
                raise AssertionError(f"the default of {name!r} is not valid: {error}") from error
        assert self.product() is not None, "the factory answers None"

    def test_unknown_option(self) -> None:
        """A misspelt option is a ConfigError that names the whole key, not a setting without effect."""
        key = f"{self.kind}.{self.name}.no_such_option"
        try:
            self.option_struct({"no_such_option": 1})
        except ConfigError as error:
            assert error.key == key, f"the error is about {error.key!r} instead of {key!r}"
        else:
            pytest.fail(f"{key} is accepted: declare the schema with forbid_unknown_fields=True")

    def test_mistyped_option(self) -> None:
        """Every option has a type: something is refused, as a ConfigError that names it."""
        wrong: Sequence[object] = ([[]], {"": []}, "\0 no such word", -(10**9), True)
        for field in msgspec.structs.fields(self.spec().options):
            refused = 0
            for value in wrong:
                try:
                    self.option_struct({field.encode_name: value})
                except ConfigError as error:
                    refused += 1
                    assert field.encode_name in error.key, f"{field.encode_name} = {value!r}: {error.key!r} is blamed"
            assert refused, f"{field.encode_name} takes anything: give it a type"

    def test_import_budget(self) -> None:
        """Importing the plugin loads few modules: what costs more waits until it is used."""
        factory = self.spec().factory
        module = (factory.func if isinstance(factory, functools.partial) else factory).__module__
        done = subprocess.run(
            [sys.executable, "-c", _FRESH, json.dumps(sys.path), module], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{module} cannot be imported by a fresh interpreter:\n{done.stderr}"
        loaded = json.loads(done.stdout)
        tests = sorted(_TEST_LIBRARIES.intersection(loaded))
        assert not tests, f"importing {module} loads {', '.join(tests)}: that is for tests"
        assert len(loaded) <= self.import_budget, (
            f"importing {module} loads {len(loaded)} modules, import_budget is {self.import_budget}: {loaded}"
        )


def _defaults(schema: type[msgspec.Struct]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(schema):
        if field.default is not msgspec.NODEFAULT:
            found[field.encode_name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            found[field.encode_name] = field.default_factory()
    return found


def _offering(spec: AnySpec) -> object:
    """A plugin, registered from code, that offers ``spec`` and nothing else."""

    class OfCodecs:
        @hookimpl
        def echostream_codecs(self) -> Sequence[AnySpec]:
            return (spec,)

    class OfDiscovery:
        @hookimpl
        def echostream_discovery(self) -> Sequence[AnySpec]:
            return (spec,)

    class OfMiddleware:
        @hookimpl
        def echostream_middleware(self) -> Sequence[AnySpec]:
            return (spec,)

    if isinstance(spec, CodecSpec):
        return OfCodecs()
    return OfDiscovery() if isinstance(spec, DiscoverySpec) else OfMiddleware()
