"""A virtual environment on top of this one: what is installed there stays there, and what is installed here is seen.

Nothing is fetched: pip builds with the build backend of this environment, and asks no index.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

__all__ = ["Venv"]

TIMEOUT_S = 120.0
"""For one program; only a hang takes so long."""

_SCRIPT = """\
#!{python}
import runpy, sys
sys.argv[0] = "{name}"
runpy.run_module("{module}", run_name="__main__", alter_sys=True)
"""

_SCRIPTS = {"echostream": "echostream_cli", "pip": "pip", "pytest": "pytest", "mypy": "mypy"}
"""Commands, and the modules that they run with the Python of the new environment: the ones here have another."""


class Venv:
    """A new virtual environment in ``folder``."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=TIMEOUT_S)
        self.scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
        self.python = self.scripts / "python"
        (packages,) = [path for path in folder.rglob("site-packages") if path.is_dir()]
        # A .pth line that begins with "import" is run: so the .pth files of this environment count as well.
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "this_environment.pth").write_text("\n".join(lines), encoding="utf-8")
        for name, module in _SCRIPTS.items():
            script = self.scripts / name
            script.write_text(_SCRIPT.format(python=self.python, name=name, module=module), encoding="utf-8")
            script.chmod(0o755)
        # A program of its own, which `python -m ruff` looks for among the scripts.
        (self.scripts / "ruff").symlink_to(Path(sys.executable).parent / "ruff")
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("ECHOSTREAM", "PYTEST"))},
            "PATH": os.pathsep.join([str(self.scripts), os.environ.get("PATH", "")]),
            "VIRTUAL_ENV": str(folder),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this variable the wrong way round: 0 is "no isolation"
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }

    def run(self, *arguments: str | Path, cwd: Path, status: int = 0) -> str:
        """Run Python with ``arguments``; its output, both streams in one. It must end with ``status``."""
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == status, f"{arguments} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def install(self, *folders: Path) -> None:
        """Install packages in editable form, as ``pip install -e`` does."""
        editable = [word for folder in folders for word in ("-e", str(folder))]
        self.run("-m", "pip", "install", "--quiet", *editable, cwd=folders[0])
