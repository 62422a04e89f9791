"""Six plugins, each bad in its own way, and a good one between them; what each must come to stands below."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.plugins.installed import Distribution, transport_module, transport_plugin

GOOD: Final = transport_plugin("good-transport", "good")

IMPORT_ERROR: Final = Distribution(
    name="bad-import-error",
    source='"""Needs what is not there."""\nfrom echostream_core.no_such_module import anything\n',
    entry_points={
        "v1.plugins": {"import_error": "bad_import_error"},
        "v1.transports": {"import-error": "bad_import_error"},
    },
)

SYSTEM_EXIT: Final = Distribution(
    name="bad-system-exit",
    source='"""Ends the process."""\nimport sys\nsys.exit("I have decided that you stop")\n',
    entry_points={
        "v1.plugins": {"system_exit": "bad_system_exit"},
        "v1.transports": {"system-exit": "bad_system_exit"},
    },
)

TOO_NEW: Final = Distribution(
    name="bad-too-new",
    source='raise AssertionError("a plugin for another API is not even imported")\n',
    entry_points={
        "v2.plugins": {"too_new": "bad_too_new"},
        "v2.transports": {"too-new": "bad_too_new"},
    },
    requires=["echostream-core>=99"],
)

DUPLICATE: Final = transport_plugin("bad-duplicate", "memory")
"""Offers a scheme that the kernel already has."""

LYING_INDEX: Final = transport_plugin("bad-lying-index", "truth", promised=["lie"])

MISSPELT_HOOK: Final = Distribution(
    name="bad-misspelt-hook",
    source=transport_module("misspelt").replace("def echostream_transports(", "def echostream_transport("),
    entry_points={
        "v1.plugins": {"misspelt_hook": "bad_misspelt_hook"},
        "v1.transports": {"misspelt": "bad_misspelt_hook"},
    },
)

CODES: Final = {
    "bad-import-error": ("import-error", "E-IMPORT"),
    "bad-system-exit": ("system-exit", "E-IMPORT"),
    "bad-too-new": ("too-new", "E-INCOMPATIBLE"),
    "bad-duplicate": ("memory", "E-AMBIGUOUS"),
    "bad-lying-index": ("lie", "E-INDEX"),
    "bad-misspelt-hook": ("misspelt", "E-HOOK"),
}
"""Distribution → the scheme that leads to it, and the code that this must give."""


def install_six_bad_plugins(folder: Path) -> None:
    """Install all six, and the good one, into ``folder``."""
    for plugin in (IMPORT_ERROR, SYSTEM_EXIT, TOO_NEW, GOOD, DUPLICATE, LYING_INDEX, MISSPELT_HOOK):
        plugin.install(folder)
