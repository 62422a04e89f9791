"""What a transport says of itself: its spec, its options, and what importing it costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib import metadata
from typing import Final

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.config import load_config
from echostream_core.config_json_schema import json_schema
from echostream_core.config_show import show
from echostream_core.errors import ConfigError
from echostream_core.kernel import Kernel
from echostream_core.transport import Transport
from echostream_testkit.transport.stage import descriptors
from echostream_testkit.transport.subject import TransportSubject

__all__ = ["DescriptionChecks"]

_SECRET: Final = "hush-e0f1d2"
_SECRETIVE: Final = re.compile(r"token|pass|secret|credential|psk|(api|auth|shared|access|signing)_?key", re.IGNORECASE)
"""Names of options that hold a secret; the path of a private key is none."""

_IMPORT: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import echostream_core.kernel, echostream_core.transport, echostream_core.tls_options, echostream_core.wire.limits
import asyncio, socket, ssl, logging
before = set(sys.modules)
__import__(sys.argv[2])
print(json.dumps(sorted(set(sys.modules) - before)))
"""
"""What a module loads beside the kernel and the standard library's network modules, in a fresh interpreter."""


class DescriptionChecks(TransportSubject):
    """Checks without a connection."""

    def entry_module(self) -> str:
        """The module that the plugin's entry point names; for a spec in code, the one that its factory is from."""
        kernel, spec = Kernel(), self.spec()
        if self.scheme in kernel.known("transport") and kernel.transport(self.scheme) == spec:
            for report in kernel.plugins():
                if f"transport.{self.scheme}" in report.provides and report.state == "loaded" and report.reference:
                    return report.reference.partition(":")[0]
        return spec.factory.__module__

    def test_import_budget(self) -> None:
        """Importing the entry module loads at most ``max_modules`` modules, and no library of another distribution.

        Judged by module count, not by time. The library that does the work is imported with the first ``listen`` or
        ``dial``: whoever lists plugins, or uses another transport, does not pay for it.
        """
        module = self.entry_module()
        run = subprocess.run(
            [sys.executable, "-c", _IMPORT, json.dumps(sys.path), module], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"importing {module} fails: {run.stderr[-500:]}"
        loaded: list[str] = json.loads(run.stdout)
        own = module.partition(".")[0]
        allowed = {own, "echostream_core", "echostream_certs", "msgspec", *sys.stdlib_module_names}
        heavy = sorted({name.partition(".")[0] for name in loaded} - allowed)
        if heavy:
            heavy = sorted(set(heavy) - _packages_of_needed_plugins(own))
        assert not heavy, f"importing {module} imports {', '.join(heavy)}: import it with the first listen or dial"
        assert len(loaded) <= self.max_modules, (
            f"importing {module} loads {len(loaded)} modules, more than max_modules = {self.max_modules}"
        )

    def test_spec_describes_itself(self) -> None:
        """The scheme is the URL's, there is a summary, notes are about capabilities, and the factory does no I/O."""
        spec = self.spec()
        assert spec.scheme == self.scheme == self.scheme.lower(), f"the spec's scheme is {spec.scheme!r}"
        assert spec.summary.strip(), "the spec has no summary: one line for listings"
        assert "\n" not in spec.summary, "the summary has more than one line"
        known = {field.name for field in fields(Capabilities)}
        assert spec.notes.keys() <= known, f"notes are about capabilities, not {sorted(spec.notes.keys() - known)}"
        before = descriptors()
        assert isinstance(spec.factory(), Transport), "the factory makes no Transport"
        assert descriptors() <= before, "the factory opens file descriptors"
        upper, configured = spec.capabilities.as_dict(), self.record().as_dict()
        beyond = [name for name in upper if not upper[name] and configured[name]]
        assert not beyond, f"the configured record claims {', '.join(beyond)}, which the spec does not"

    def test_options_defaults_are_valid(self) -> None:
        """The section ``[transport.SCHEME]`` may be empty."""
        spec = self.spec()
        assert isinstance(self.kernel().build_options(spec, {}, key=f"transport.{self.scheme}"), spec.options)

    def test_options_unknown_is_a_config_error(self) -> None:
        """An unknown key is ConfigError that names it in full, and suggests the nearest that there is."""
        spec, key = self.spec(), f"transport.{self.scheme}"
        names = [field.encode_name for field in msgspec.structs.fields(spec.options)]
        wrong = f"{names[0]}x" if names else "conformance"
        try:
            self.kernel().build_options(spec, {wrong: 1}, key=key)
        except ConfigError as error:
            assert error.key == f"{key}.{wrong}", f"the error's key is {error.key!r}, not {key}.{wrong}"
            assert not names or repr(names[0]) in str(error), f"the error suggests nothing: {error}"
            return
        raise AssertionError(f"{key}.{wrong} was taken: the options need forbid_unknown_fields=True")

    def test_options_json_schema_can_be_made(self) -> None:
        """The JSON Schema of the configuration file has the section, with every option in it."""
        schema = json.loads(json.dumps(json_schema(self.kernel())))
        section = schema["properties"]["transport"]["properties"][self.scheme]
        name = section.get("$ref", "").rpartition("/")[2]
        described = schema["$defs"][name] if name else section
        wanted = {field.encode_name for field in msgspec.structs.fields(self.spec().options)}
        assert wanted <= described.get("properties", {}).keys(), (
            f"[transport.{self.scheme}] lacks options in the schema"
        )

    def test_options_secrets_are_redacted(self) -> None:
        """``config show`` shows no value of an option that holds a secret; give it a name that says so."""
        names = [field.encode_name for field in msgspec.structs.fields(self.spec().options)]
        secret = [name for name in names if _SECRETIVE.search(name)]
        values: dict[str, object] = {f"transport.{self.scheme}.{name}": _SECRET for name in secret}
        if "tls" in names:
            values[f"transport.{self.scheme}.tls"] = {"private_key": f"-----BEGIN PRIVATE KEY-----{_SECRET}"}
        values[f"transport.{self.scheme}.conformance_token"] = _SECRET
        rows = {key: value for key, value, _ in show(load_config(environ={}, overrides=values))}
        printed = [key for key, value in rows.items() if _SECRET in json.dumps(value, default=str)]
        assert not printed, f"config show prints {', '.join(printed)}: name it ..._secret, ..._password or ..._token"
        assert rows.keys() >= values.keys() - {f"transport.{self.scheme}.tls"}, "config show leaves options out"


def _packages_of_needed_plugins(package: str) -> set[str]:
    """The packages of the plugins that the distribution of ``package`` requires: standing on one is no weight.

    By the convention that a distribution and its package have the same name: one that is installed editable lists no
    modules.
    """
    try:
        requirements = metadata.requires(package.replace("_", "-")) or ()
    except metadata.PackageNotFoundError:
        return set()
    found = set()
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            plugins = metadata.distribution(name).entry_points.select(group="echostream.v1.plugins")
        except metadata.PackageNotFoundError:  # an extra that is not installed
            continue
        if plugins:
            found.add(re.sub(r"[-_.]+", "_", name).lower())
    return found
