"""``echostream version``: what is installed here, in which versions."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from typing import Final

from echostream_cli.arguments import Json
from echostream_cli.screen import print_json, print_line

FAST_LOOPS: Final = ("uvloop", "winloop")

__all__ = ["print_versions", "version"]


def version(json: Json = False) -> None:
    """Print the versions of the kernel, this command and the plugins."""
    print_versions(json=json)


def print_versions(*, json: bool) -> None:
    """The kernel and the command first, then the plugins' distributions by name."""
    from echostream_core import __version__
    from echostream_core.commands import aligned, list_plugins, make_kernel

    reports = list_plugins(make_kernel())
    found = {report.distribution: report.version for report in reports if report.distribution}
    first = ("echostream-core", "echostream-cli")
    found.setdefault(first[0], __version__)
    names = [name for name in first if name in found] + sorted(set(found).difference(first))
    versions = {name: found[name] or "unknown" for name in names}
    system = {
        "Python": platform.python_version(),
        "event loop": next((name for name in FAST_LOOPS if find_spec(name)), "asyncio"),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if json:
        print_json(
            {"distributions": versions, **{key.lower().replace(" ", "_"): value for key, value in system.items()}}
        )
        return
    print_line("\n".join(aligned([*versions.items(), *system.items()])))
