"""Distributions that exist for one test: real ``.dist-info`` folders and modules in a folder on the path."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRANSPORT_MODULE = '''\
"""A plugin that offers transports which move nothing."""

from echostream_core.capabilities import Capabilities
from echostream_core.hookspecs import hookimpl
from echostream_core.transport import Transport, TransportSpec


class Still(Transport):
    async def listen(self, url, options, accept):
        raise NotImplementedError

    async def dial(self, url, options):
        raise NotImplementedError


@hookimpl
def echostream_transports():
    can = Capabilities()
    return [TransportSpec(scheme=scheme, factory=Still, capabilities=can) for scheme in {schemes!r}]
'''


def transport_module(*schemes: str) -> str:
    """The source of a plugin with these schemes."""
    return TRANSPORT_MODULE.replace("{schemes!r}", repr(schemes))


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What to install: one distribution with one module."""

    name: str
    module: str = ""
    """The module's name; default: the distribution's, with underscores."""
    source: str = ""
    entry_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Group (without ``echostream.``) → key → reference."""
    version: str = "1.0"
    requires: Sequence[str] = ()
    readme: str = ""
    direct_url: Mapping[str, object] | None = None

    @property
    def module_name(self) -> str:
        """The module's name."""
        return self.module or self.name.replace("-", "_")

    def install(self, folder: Path) -> None:
        """Write metadata and module into ``folder``."""
        info = folder / f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.4", f"Name: {self.name}", f"Version: {self.version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires]
        (info / "METADATA").write_text("\n".join([*lines, "", self.readme]), encoding="utf-8")
        if self.entry_points:
            lines = []
            for group, entries in self.entry_points.items():
                lines.append(f"[echostream.{group}]")
                lines += [f"{key} = {value}" for key, value in entries.items()]
            (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        if self.direct_url is not None:
            (info / "direct_url.json").write_text(json.dumps(self.direct_url), encoding="utf-8")
        (folder / f"{self.module_name}.py").write_text(self.source, encoding="utf-8")


def transport_plugin(
    name: str, *schemes: str, promised: Sequence[str] | None = None, requires: Sequence[str] = ()
) -> Distribution:
    """A distribution whose hooks give ``schemes``, and whose index promises them or ``promised``."""
    module = name.replace("-", "_")
    return Distribution(
        name=name,
        source=transport_module(*schemes),
        entry_points={
            "v1.plugins": {module: module},
            "v1.transports": dict.fromkeys(schemes if promised is None else promised, module),
        },
        requires=requires,
    )
