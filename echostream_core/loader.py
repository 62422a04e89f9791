"""From an index entry to an imported object: checks before the import, a coded error for what goes wrong."""

from __future__ import annotations

import importlib
from types import TracebackType
from typing import Final

from echostream_core.errors import (
    PluginError,
    PluginImportFailed,
    PluginIncompatible,
    PluginIndexMismatch,
    PluginMissingDependency,
)
from echostream_core.hookspecs import API_VERSION
from echostream_core.index import CORE_DISTRIBUTION, PluginRef, installed_version
from echostream_core.requirements import Requirement

__all__ = ["check_before_import", "import_plugin", "leave_out"]

_OWN_PACKAGE: Final = __name__.rpartition(".")[0]


def leave_out(ref: PluginRef) -> str:
    """The last resort of every fix: how to live without the plugin."""
    return f'leave it out with [plugins] block = ["{ref.distribution}"]'


def check_before_import(ref: PluginRef) -> None:
    """Raise the coded error of a plugin that cannot work, from its metadata alone.

    E-INDEX for malformed entry points, E-INCOMPATIBLE for another API or kernel version, E-MISSING-DEP for a
    required distribution that is absent or has the wrong version.
    """
    if ref.defect:
        raise PluginIndexMismatch(
            f"{ref.label}: {ref.defect}",
            plugin=ref.id,
            fix=f"Correct the entry points in its pyproject.toml and install it again, or {leave_out(ref)}",
        )
    if ref.api != API_VERSION:
        fitting = f"install a {ref.distribution} for plugin API {API_VERSION}"
        raise PluginIncompatible(
            f"{ref.label}: {ref.name} is written for plugin API {ref.api}, this kernel speaks {API_VERSION} "
            f"(its entry points are in the groups echostream.v{ref.api}.*)",
            plugin=ref.id,
            fix=f"Upgrade {CORE_DISTRIBUTION}, {fitting}, or {leave_out(ref)}"
            if ref.api > API_VERSION
            else f"Upgrade {ref.distribution}, or {leave_out(ref)}",
        )
    if not ref.builtin:
        _check_requirements(ref)


def _check_requirements(ref: PluginRef) -> None:
    for line in ref.requires:
        requirement = Requirement.parse(line)
        problem = requirement.problem(installed_version) if requirement else None
        if requirement is None or problem is None:
            continue
        kind: type[PluginError] = PluginMissingDependency
        fix = f"Install what it needs (pip install {ref.distribution} does), or {leave_out(ref)}"
        if requirement.name == CORE_DISTRIBUTION:
            kind = PluginIncompatible
            fix = f"Install a {ref.distribution} that fits {CORE_DISTRIBUTION}, or {leave_out(ref)}"
        raise kind(f"{ref.label}: {problem}", plugin=ref.id, fix=fix)


def import_plugin(ref: PluginRef) -> object:
    """Import the object that ``ref`` names.

    Whatever its module raises, SystemExit included, is E-IMPORT with the cause chained; KeyboardInterrupt
    passes. A module that lacks the attribute is E-INDEX: the entry point lies.
    """
    module_name, _, path = ref.reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise PluginImportFailed(
            f"{ref.label}: importing {module_name} raised {_describe(error)}",
            plugin=ref.id,
            fix=_import_fix(ref, error),
        ) from error
    for name in filter(None, path.split(".")):
        try:
            found = getattr(found, name)
        except (Exception, SystemExit) as error:
            raise PluginIndexMismatch(
                f"{ref.label}: its entry point names {ref.reference}, but {module_name} has no {path}",
                plugin=ref.id,
                fix=f"Correct the entry point in its pyproject.toml, or {leave_out(ref)}",
            ) from error
    return found


def _import_fix(ref: PluginRef, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"A plugin must not end the process: tell its author, or {leave_out(ref)}"
    if ref.builtin:
        return f"Install {CORE_DISTRIBUTION} again"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == _OWN_PACKAGE:
        kernel = f"{CORE_DISTRIBUTION} {installed_version(CORE_DISTRIBUTION) or ''}".rstrip()
        return f"Install a {ref.distribution} that fits {kernel}, which does not have that, or {leave_out(ref)}"
    if missing:
        own = ref.reference.partition(":")[0].partition(".")[0]
        if missing.partition(".")[0] != own:
            return f"Install the module {missing}, which its metadata should require, or {leave_out(ref)}"
    return f"Reinstall or upgrade {ref.distribution}, or {leave_out(ref)}"


def _describe(error: BaseException) -> str:
    """``ImportError: no such thing (module.py:12)``: the exception and the innermost line outside the import system."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    place = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not filename.startswith("<frozen importlib") and filename not in (__file__, importlib.__file__):
            place = f" ({filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return text + place
