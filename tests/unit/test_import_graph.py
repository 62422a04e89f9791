"""Imports point down only: this reads the import graph of the kernel from its source and fails otherwise.

There are five: ground, contracts, kernel, engine, faces. A module may import its own floor and those below.
What stands under ``if TYPE_CHECKING`` names types only and is free; an import inside a function is an import.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "echostream_core"
ROOT = Path(__file__).resolve().parents[2]

GROUND, CONTRACTS, KERNEL, ENGINE, FACES = range(5)
FLOOR_NAMES = ("ground", "contracts", "kernel", "engine", "faces")

# Module, or package with all that is in it → floor. A new module goes on the lowest floor it can stand on.
FLOORS = {
    "errors": GROUND,
    "types": GROUND,
    "wire": GROUND,
    "capabilities": CONTRACTS,
    "codec": CONTRACTS,
    "components": CONTRACTS,
    "compression": CONTRACTS,
    "discovery": CONTRACTS,
    "hookspecs": CONTRACTS,
    "middleware": CONTRACTS,
    "tls_options": CONTRACTS,
    "transport": CONTRACTS,
    "value_model": CONTRACTS,
    "config": KERNEL,
    "config_check": KERNEL,
    "config_json_schema": KERNEL,
    "config_layers": KERNEL,
    "config_schema": KERNEL,
    "config_show": KERNEL,
    "index": KERNEL,
    "kernel": KERNEL,
    "loader": KERNEL,
    "options": KERNEL,
    "plugin_hooks": KERNEL,
    "plugin_reports": KERNEL,
    "plugins": KERNEL,
    "registry": KERNEL,
    "requirements": KERNEL,
    "resolver": KERNEL,
    "versions": KERNEL,
    "builtin": ENGINE,
    "engine": ENGINE,
    "__init__": FACES,
    "__main__": FACES,
    "advertising": FACES,
    "client": FACES,
    "client_sessions": FACES,
    "client_settings": FACES,
    "commands": FACES,
    "complaints": KERNEL,
    "dialing": FACES,
    "finding": FACES,
    "proxy": FACES,
    "serving": FACES,
    "reconnect": FACES,
    "runner": FACES,
    "scaffold": FACES,
    "server": FACES,
    "testing": FACES,
}

# No I/O and no clock up to the kernel's floor: time is an argument there, and tests pass a virtual one.
FORBIDDEN_BELOW_ENGINE = frozenset({"asyncio", "select", "selectors", "socket", "ssl", "time", "uvloop"})


@dataclass(frozen=True, slots=True)
class Import:
    """What one statement means: ``importer`` (a dotted name inside the package) needs ``target``."""

    importer: str
    target: str
    line: int


def module_name(path: Path, root: Path) -> str:
    """``wire.frames`` for ``wire/frames.py``; a package is named by its folder, the root by ``__init__``."""
    parts = path.relative_to(root).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def floor_of(module: str) -> int | None:
    """The floor of a module inside the package, by the longest entry of the table that covers it."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        floor = FLOORS.get(".".join(parts[:length]))
        if floor is not None:
            return floor
    return None


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below ``node``, but for the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for otherwise in child.orelse:
                yield otherwise
                yield from runtime_nodes(otherwise)
            continue
        yield child
        yield from runtime_nodes(child)


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """What a module imports when it runs, as absolute names; ``import_module`` with a literal counts."""
    importer = module_name(path, root)
    package = [PACKAGE, *path.relative_to(root).parent.parts]
    modules = {f"{PACKAGE}.{module_name(file, root)}" for file in root.rglob("*.py")}
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                # The name is a module where there is one of that name; else it is in the package's own file.
                submodule = f"{source}.{alias.name}"
                yield Import(importer, submodule if submodule in modules else source, node.lineno)
        elif isinstance(node, ast.Call) and (name := dynamically_imported(node)):
            yield Import(importer, name, node.lineno)


def dynamically_imported(call: ast.Call) -> str | None:
    """The literal module name that a call of ``import_module`` or ``__import__`` imports."""
    if ast.unparse(call.func).rpartition(".")[2] not in {"import_module", "__import__"}:
        return None
    argument = call.args[0] if call.args else None
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None


def violations(root: Path) -> list[str]:
    """One sentence for each import that points up or out of bounds, and for each module without a floor."""
    found = []
    for path in sorted(root.rglob("*.py")):
        importer = module_name(path, root)
        floor = floor_of(importer)
        where = path.relative_to(root).as_posix()
        if floor is None:
            found.append(f"{where}: no floor; add {importer!r} to FLOORS in tests/unit/test_import_graph.py")
            continue
        for item in imports_of(path, root):
            fault = fault_of(item, floor)
            if fault:
                found.append(f"{where}:{item.line}: {fault}")
    return list(dict.fromkeys(found))


def fault_of(item: Import, floor: int) -> str | None:
    """Why a module on ``floor`` may not have this import, or None."""
    top, _, rest = item.target.partition(".")
    if top == PACKAGE:
        target_floor = floor_of(rest or "__init__")
        if target_floor is None:
            return f"imports {item.target}, which has no floor"
        if target_floor > floor:
            return f"{FLOOR_NAMES[floor]} imports {item.target}, which is up on {FLOOR_NAMES[target_floor]}"
        return None
    if floor == GROUND and top not in sys.stdlib_module_names:
        return f"ground imports {item.target}, which is not of the standard library"
    if floor < ENGINE and top in FORBIDDEN_BELOW_ENGINE:
        return f"{FLOOR_NAMES[floor]} imports {item.target}: no I/O and no clock below the engine"
    return None


def test_imports_point_down_only() -> None:
    found = violations(ROOT / PACKAGE)
    assert not found, "\n".join(found)


# What the check itself catches, on a small package of its own.


def faults(root: Path, files: dict[str, str]) -> list[str]:
    """The violations in a package made of ``files``."""
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return violations(root)


@pytest.mark.parametrize(
    "statement",
    [
        "import echostream_core.client",
        "from echostream_core.client import connect",
        "from echostream_core import client",
        "from echostream_core import RpcClient",
        "from . import client",
        "from .client import connect",
        "import importlib\nimportlib.import_module('echostream_core.client')",
        "def later() -> None:\n    from .client import connect",
        "try:\n    import echostream_core.client\nexcept ImportError:\n    pass",
    ],
)
def test_an_import_that_points_up_is_found_in_every_form(tmp_path: Path, statement: str) -> None:
    (fault,) = faults(tmp_path, {"kernel.py": statement, "client.py": "", "__init__.py": ""})
    assert "kernel imports echostream_core" in fault
    assert "up on faces" in fault


def test_a_relative_import_is_resolved_from_inside_a_package(tmp_path: Path) -> None:
    source = "from .limits import x\nfrom ..kernel import y"
    (fault,) = faults(tmp_path, {"wire/frames.py": source, "wire/limits.py": ""})
    assert fault == "wire/frames.py:2: ground imports echostream_core.kernel, which is up on kernel"


def test_an_import_that_points_down_or_sideways_is_fine(tmp_path: Path) -> None:
    source = "from .server import x\nfrom .wire import frames\nimport asyncio"
    assert faults(tmp_path, {"client.py": source, "server.py": "", "wire/frames.py": ""}) == []


def test_an_import_for_types_only_is_fine(tmp_path: Path) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio\n    from .client import x\n"
    assert faults(tmp_path, {"hookspecs.py": source, "client.py": ""}) == []


def test_the_other_branch_of_a_type_checking_block_counts(tmp_path: Path) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1\nelse:\n    import asyncio\n"
    assert len(faults(tmp_path, {"hookspecs.py": source})) == 1


@pytest.mark.parametrize("module", sorted(FORBIDDEN_BELOW_ENGINE - {"uvloop"}))
@pytest.mark.parametrize("file", ["errors.py", "transport.py", "config.py", "wire/frames.py"])
def test_clocks_and_sockets_stay_out_of_the_lower_floors(tmp_path: Path, file: str, module: str) -> None:
    (fault,) = faults(tmp_path, {file: f"import {module}"})
    assert "no I/O and no clock below the engine" in fault


def test_the_ground_needs_the_standard_library_only(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, {"wire/frames.py": "import msgspec", "codec.py": "import msgspec"})
    assert "not of the standard library" in fault


def test_a_module_without_a_floor_says_where_to_add_it(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, {"brand_new.py": ""})
    assert fault == "brand_new.py: no floor; add 'brand_new' to FLOORS in tests/unit/test_import_graph.py"
