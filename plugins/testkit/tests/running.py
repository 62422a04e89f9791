"""One check, run without pytest and on a virtual clock: what waits for silence costs no time."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from echostream_core.testing import VirtualLoop
from echostream_testkit.spec_checks import SpecChecks

__all__ = ["failure_of", "run_check"]

_Failed = pytest.fail.Exception
_Skipped = pytest.skip.Exception


def run_check(suite: type[SpecChecks], name: str) -> None:
    """Run one check as pytest does, with a new object; what is async runs on a virtual clock."""
    outcome = getattr(suite(), name)()
    if inspect.iscoroutine(outcome):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(outcome)


def failure_of(suite: type[SpecChecks], name: str) -> str | None:
    """What the check says about the suite's subject; None when it passes. A skipped check is no answer."""
    try:
        run_check(suite, name)
    except _Skipped as error:
        raise AssertionError(f"{name} was skipped: {error}") from error
    except (AssertionError, _Failed) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # as in pytest: what the subject raises fails the check
        return f"{type(error).__name__}: {error}"
    return None
