"""The JSON Schema: it describes the file as it is written, with the options of what is installed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from echostream_core.config_json_schema import json_schema
from echostream_core.hookspecs import hookimpl
from echostream_core.index import Index, PluginRef
from echostream_core.kernel import Kernel
from echostream_core.middleware import MiddlewareSpec


class Odd(msgspec.Struct):
    """Options that JSON Schema has no words for."""

    callback: type


class Plugin:
    @hookimpl
    def echostream_middleware(self) -> list[MiddlewareSpec]:
        return [MiddlewareSpec(name="odd", factory=lambda options: NotImplemented, options=Odd)]


@pytest.fixture
def schema() -> dict[str, Any]:
    broken = PluginRef(name="b", distribution="b", reference="no_such_module", promises=(("codec", "broken"),))
    kernel = Kernel(index=Index((broken,)))
    kernel.register(Plugin(), name="odd")
    return json_schema(kernel)


def test_it_is_plain_json_and_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    references = {part.partition('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert references and references <= set(schema["$defs"])


def test_sections_of_installed_plugins_are_described(schema: dict[str, Any]) -> None:
    sections = schema["properties"]
    options = sections["transport"]["properties"]["memory"]["$ref"].rpartition("/")[2]
    assert "max_streams" in schema["$defs"][options]["properties"]
    assert sorted(sections["codec"]["properties"]) == ["json"]
    assert sections["middleware"]["properties"]["odd"] == {"type": "object"}
    assert sections["transport"]["additionalProperties"] is False


def test_endpoints_are_described_as_they_are_written(schema: dict[str, Any]) -> None:
    server = schema["$defs"]["ServerConfig"]
    assert "name" not in server["properties"] and server["required"] == ["listen"]
    assert {"type": "string"} in server["properties"]["listen"]["anyOf"]
    assert server["properties"]["codecs"]["default"] == []
    assert server["properties"]["limits"]["properties"]["max_streams"]["type"] == "integer"
    assert server["properties"]["tls"] == {"$ref": "#/$defs/TlsOptions"}
    assert server["additionalProperties"] is False
    assert schema["properties"]["client"]["propertyNames"] == {"pattern": "^[a-z0-9_]+$"}
