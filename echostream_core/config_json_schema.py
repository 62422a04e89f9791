"""The JSON Schema of ``echostream.toml``, for editors and ``config schema``: our sections, and the plugins' own."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import msgspec

from echostream_core.config_schema import ENDPOINT_NAME, LISTS, ClientConfig, ServerConfig
from echostream_core.errors import PluginError
from echostream_core.plugin_reports import PluginSettings
from echostream_core.tls_options import TlsOptions
from echostream_core.wire.limits import Limits

if TYPE_CHECKING:
    from echostream_core.kernel import Kernel

__all__ = ["json_schema"]


def json_schema(kernel: Kernel) -> dict[str, object]:
    """The JSON Schema (2020-12) of the whole file, with the option schemas of every installed plugin that works."""
    sections: dict[str, dict[str, type[msgspec.Struct]]] = {}
    for kind in {"transport", "codec", "middleware", "discovery", *kernel.kinds()}:
        found = sections.setdefault(kind, {})
        for name in kernel.known(kind):
            try:
                found[name] = kernel.spec(kind, name).options
            except PluginError:
                continue
    types = {ServerConfig, ClientConfig, PluginSettings, TlsOptions}
    types |= {options for found in sections.values() for options in found.values() if _describable(options)}
    ordered = sorted(types, key=lambda item: (item.__module__, item.__qualname__))
    schemas, definitions = msgspec.json.schema_components(
        ordered, schema_hook=_any_value, ref_template="#/$defs/{name}"
    )
    reference = dict(zip(ordered, schemas, strict=True))
    for endpoint in (ServerConfig, ClientConfig):
        _adapt_endpoint(definitions[reference[endpoint]["$ref"].rpartition("/")[2]])
    endpoints = {"propertyNames": {"pattern": f"^{ENDPOINT_NAME.pattern}$"}, "type": "object"}
    properties: dict[str, object] = {
        "plugins": reference[PluginSettings],
        "server": endpoints | {"additionalProperties": reference[ServerConfig]},
        "client": endpoints | {"additionalProperties": reference[ClientConfig]},
    }
    for kind in sorted(sections):
        properties[kind] = {
            "type": "object",
            "properties": {
                name: reference.get(options, {"type": "object"}) for name, options in sorted(sections[kind].items())
            },
            "additionalProperties": False,
        }
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "EchoStream configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }
    return msgspec.json.decode(msgspec.json.encode(whole), type=dict[str, object])  # defaults become plain JSON too


def _any_value(kind: type) -> dict[str, object]:
    """What msgspec has no word for: ``object``."""
    if kind is object:
        return {"description": "any value"}
    raise NotImplementedError


def _describable(options: type[msgspec.Struct]) -> bool:
    try:
        msgspec.json.schema(options, schema_hook=_any_value)
    except TypeError:  # a field type that JSON Schema has no word for
        return False
    return True


def _adapt_endpoint(definition: dict[str, object]) -> None:
    """Describe the section as it is written: without its name, single texts for lists, TLS and limits spelled out."""
    properties, required = definition["properties"], definition.get("required")
    assert isinstance(properties, dict) and isinstance(required, list)
    del properties["name"]
    required.remove("name")
    for key in LISTS:
        if key in properties:
            default = {"default": properties[key].pop("default")} if "default" in properties[key] else {}
            properties[key] = {"anyOf": [{"type": "string"}, properties[key]], **default}
    properties["tls"] = {"$ref": "#/$defs/TlsOptions"}
    properties["limits"] = {
        "type": "object",
        "properties": {
            item.name: {"type": "integer" if item.type == "int" else "number", "default": item.default}
            for item in fields(Limits)
        },
        "additionalProperties": False,
    }
