"""Running the command within the test, and as a process; plugins that exist for one test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from echostream_cli.main import main

PATIENCE_S = 40.0


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def echostream(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run ``echostream`` here; its output is a pipe. Settings of the environment do not count."""
    for name in os.environ:
        if name.startswith("ECHOSTREAM__"):
            monkeypatch.delenv(name)

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Done(status, captured.out, captured.err)

    yield run


def process(*arguments: str, folder: Path, environ: Mapping[str, str] | None = None, stdin: str | None = None) -> Done:
    """Run ``echostream`` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "echostream_cli", *arguments],
        cwd=folder,
        env={**os.environ, **(environ or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def install(folder: Path, name: str, source: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    """Put a distribution with one module into ``folder``, as an installer would; groups without ``echostream.v1.``."""
    module = name.replace("-", "_")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = []
    for group, entries in groups.items():
        lines.append(f"[echostream.v1.{group}]")
        lines += [f"{key} = {value}" for key, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
