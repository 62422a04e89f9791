"""``echostream bench``: run the checkout's benchmarks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final

import typer

__all__ = ["EXAMPLES", "OPTIONS", "SETTINGS", "bench"]

EXAMPLES: Final = (
    "echostream bench",
    "echostream bench --rows a,b --peers grpc_aio,echostream_tcp --rounds 1",
)
OPTIONS: Final = (
    "--rounds N            interleaved rounds",
    "--seconds S           length of one measurement",
    "--rows a,b,c,d,idle   some of the rows",
    "--peers NAME,...      some of the peers; echostream is all of ours",
    "--json PATH           write every round's figures there",
    "--chart PATH.svg      draw the ratios there",
)
SETTINGS: Final = {"allow_extra_args": True, "ignore_unknown_options": True}


def bench(context: typer.Context) -> int:
    """Measure beside the peers: ratios, JSON and a chart. Runs in a checkout of the repository.

    The options go to the benchmarks as they are; without any, everything is measured, which takes some minutes.
    """
    from echostream_core.commands import UsageError

    folder = Path.cwd()
    if not (folder / "benchmarks" / "run.py").is_file():
        raise UsageError(
            "the benchmarks are not part of the installation, and there is no benchmarks/run.py here: "
            "clone the repository, and run this in its folder"
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        benchmarks = importlib.import_module("benchmarks.run")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the benchmarks need {error.name}: python -m pip install -r benchmarks/requirements.txt"
        ) from error
    try:
        status: int = benchmarks.main(context.args)
    except SystemExit as end:  # argparse has explained what is wrong
        status = end.code if isinstance(end.code, int) else 2
    return status
