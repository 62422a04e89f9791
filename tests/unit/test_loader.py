"""The loader: every way in which an import can go wrong has its code, its place and its fix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from echostream_core.errors import (
    PluginError,
    PluginImportFailed,
    PluginIncompatible,
    PluginIndexMismatch,
    PluginMissingDependency,
)
from echostream_core.index import PluginRef
from echostream_core.loader import check_before_import, import_plugin


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("loadable_")]:
        del sys.modules[name]


def ref_to(reference: str, **facts: Any) -> PluginRef:
    defaults: dict[str, Any] = {
        "name": "plug",
        "distribution": "some-dist",
        "version": "1.0",
        "reference": reference,
    }
    return PluginRef(**(defaults | facts))


def failure(reference: str) -> PluginError:
    with pytest.raises(PluginError) as caught:
        import_plugin(ref_to(reference))
    assert caught.value.plugin == "some-dist/plug"
    assert 'block = ["some-dist"]' in caught.value.fix
    return caught.value


def test_a_module_or_an_attribute_is_found(folder: Path) -> None:
    (folder / "loadable_good.py").write_text("class A:\n    b = 7\n", encoding="utf-8")
    assert import_plugin(ref_to("loadable_good")) is sys.modules["loadable_good"]
    assert import_plugin(ref_to("loadable_good:A.b")) == 7


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nraise ImportError('no such symbol')", "ImportError: no such symbol"),
        ("x = 1\nraise RuntimeError", "raised RuntimeError ("),
        ("x = 1\nraise SystemExit('bye')", "SystemExit: bye"),
        ("x = 1\ndef broken(:", "SyntaxError"),
    ],
)
def test_whatever_a_module_raises_is_e_import_with_place_and_cause(folder: Path, source: str, said: str) -> None:
    (folder / "loadable_bad.py").write_text(source, encoding="utf-8")
    error = failure("loadable_bad")
    assert isinstance(error, PluginImportFailed)
    assert said in str(error)
    assert "loadable_bad.py:2)" in str(error)
    assert error.__cause__ is not None


def test_a_missing_library_is_named_in_the_fix(folder: Path) -> None:
    (folder / "loadable_needy.py").write_text("import no_such_library.inside", encoding="utf-8")
    assert "Install the module no_such_library" in failure("loadable_needy").fix
    assert "Reinstall or upgrade some-dist" in failure("loadable_gone").fix


def test_keyboard_interrupt_passes(folder: Path) -> None:
    (folder / "loadable_slow.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        import_plugin(ref_to("loadable_slow"))


def test_an_attribute_that_is_not_there_is_e_index(folder: Path) -> None:
    (folder / "loadable_empty.py").write_text("", encoding="utf-8")
    error = failure("loadable_empty:plugin")
    assert isinstance(error, PluginIndexMismatch)
    assert "loadable_empty has no plugin" in str(error)


def checked(**facts: Any) -> PluginError:
    with pytest.raises(PluginError) as caught:
        check_before_import(ref_to("never_imported", **facts))
    return caught.value


def test_malformed_entry_points_are_e_index() -> None:
    error = checked(defect="'x' is no reference")
    assert isinstance(error, PluginIndexMismatch)
    assert "some-dist 1.0: 'x' is no reference" in str(error)


def test_another_api_is_e_incompatible() -> None:
    newer, older = checked(api=2), checked(api=0)
    assert isinstance(newer, PluginIncompatible)
    assert "plugin API 2" in newer.problem and "Upgrade echostream-core" in newer.fix
    assert "Upgrade some-dist" in older.fix


def test_a_missing_requirement_is_e_missing_dep() -> None:
    error = checked(requires=("pytest>=1", "no-such-library>=3"))
    assert isinstance(error, PluginMissingDependency)
    assert "no-such-library>=3 is required but not installed" in error.problem
    wrong = checked(requires=("pytest>=9999",))
    assert isinstance(wrong, PluginMissingDependency)


def test_another_kernel_is_e_incompatible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream_core.loader.installed_version", lambda name: "0.1.0")
    error = checked(requires=("echostream-core>=99,<100",))
    assert isinstance(error, PluginIncompatible)
    assert "fits echostream-core" in error.fix


def test_met_requirements_and_unreadable_ones_stop_nothing() -> None:
    check_before_import(ref_to("never_imported", requires=("pytest", "?? nonsense", "absent; extra == 'x'")))
    check_before_import(ref_to("never_imported", requires=("no-such-library",), builtin=True))
