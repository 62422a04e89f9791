"""What the environment says, what results look like, and the bytes that every implementation can make."""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from echostream_core import ConfigError
from echostream_testkit.interop.contract import (
    PREFIX,
    VARIABLES,
    CaseResult,
    Outcome,
    overall,
    pattern,
    read_settings,
    write_json,
)

COMPLETE = {f"{PREFIX}ROLE": "dialer", f"{PREFIX}URL": "memory://x"}


def test_what_is_not_said_has_a_default() -> None:
    settings = read_settings(COMPLETE)
    assert (settings.role, settings.url) == ("dialer", "memory://x")
    assert settings.cases == ("all",)
    assert settings.codecs == ("json",)
    assert (settings.seed, settings.case_timeout_s, settings.timeout_s) == (1, 20.0, 300.0)
    assert settings.ready is settings.result is None
    assert not settings.lifeline
    assert settings.tls() == {}


def test_everything_can_be_said() -> None:
    said = dict(VARIABLES) | {
        "ROLE": "listener",
        "URL": "tls://localhost:0",
        "CASES": "drain, sums",
        "CODECS": "msgpack,json",
        "TLS_CERTIFICATE": "c.pem",
        "TLS_PRIVATE_KEY": "k.pem",
        "TLS_CA": "ca.pem",
        "TLS_SERVER_NAME": "db.example",
        "SEED": "42",
        "READY": "r",
        "RESULT": "s",
        "CASE_TIMEOUT_S": "0.5",
        "TIMEOUT_S": "9",
        "LIFELINE": "stdin",
    }
    environ = {PREFIX + name: value for name, value in said.items()}
    settings = read_settings(environ)
    assert settings.cases == ("drain", "sums")
    assert settings.codecs == ("msgpack", "json")
    assert settings.tls() == {"certificate": "c.pem", "private_key": "k.pem"}
    assert read_settings(environ, "dialer").tls() == {"ca": "ca.pem", "server_name": "db.example"}
    assert (settings.seed, settings.case_timeout_s, settings.timeout_s) == (42, 0.5, 9.0)
    assert (settings.ready, settings.result, settings.lifeline) == (Path("r"), Path("s"), True)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("ROLE", "server", "must be listener or dialer, not 'server'"),
        ("URL", "", "is missing"),
        ("CASES", " , ", "names nothing"),
        ("SEED", "one", "must be a whole number, not 'one'"),
        ("SEED", "-1", "is out of range: -1"),
        ("TIMEOUT_S", "soon", "must be a number of seconds, not 'soon'"),
        ("CASE_TIMEOUT_S", "0", "is out of range: 0"),
        ("CASE_TIMEOUT_S", "nan", "is out of range: nan"),
        ("LIFELINE", "yes", "must be stdin or empty, not 'yes'"),
        ("CODEC", "json", "there is no such variable; known are"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({**COMPLETE, PREFIX + name: value})
    assert caught.value.key == PREFIX + name
    assert str(caught.value).startswith(PREFIX + name)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["passed", "unsupported"], "passed"),
        (["unsupported", "unsupported"], "unsupported"),
        (["passed", "failed", "unsupported"], "failed"),
        ([], "unsupported"),
    ],
    ids=["some pass", "none can", "one fails", "none"],
)
def test_the_outcome_of_all_cases(outcomes: list[Outcome], expected: str) -> None:
    assert overall([CaseResult(name="x", outcome=outcome) for outcome in outcomes]) == expected


def test_a_result_can_be_written_and_read() -> None:
    result = CaseResult(name="sums", outcome="failed", reason="expected 1", seconds=0.25)
    assert CaseResult.from_dict(json.loads(json.dumps(result.as_dict()))) == result


@pytest.mark.parametrize("data", [{}, {"name": "x"}, {"name": "x", "outcome": "ok"}, {"name": 1, "outcome": "passed"}])
def test_a_result_of_another_form_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="a case needs name and outcome"):
        CaseResult.from_dict(data)


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": "ü"})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize(("size", "chunk"), [(0, 10), (1, 10), (31, 7), (32, 32), (33, 64), (1000, 33)])
def test_the_pattern_is_the_same_in_pieces_of_any_size(size: int, chunk: int) -> None:
    pieces = list(pattern(5, size, chunk))
    blocks = [sha256((5).to_bytes(8, "little") + number.to_bytes(8, "little")).digest() for number in range(40)]
    assert b"".join(pieces) == b"".join(blocks)[:size]
    assert all(len(piece) == chunk for piece in pieces[:-1])


def test_the_pattern_of_the_specification() -> None:
    assert next(pattern(1, 8)).hex() == "4cbbd8ca5215b8d1"


def test_the_interop_module_needs_no_pytest() -> None:
    """It runs beside implementations and kernels that know nothing of our tests."""
    import subprocess

    program = (
        "import sys, types; package = types.ModuleType('echostream_testkit'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['echostream_testkit'] = package\n"
        "import echostream_testkit.interop.command, echostream_testkit.interop.dialer\n"
        "assert 'pytest' not in sys.modules and 'hypothesis' not in sys.modules"
    )
    import echostream_testkit

    (folder,) = echostream_testkit.__path__
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
