"""Run every peer side by side: ``python -m benchmarks.run``.

The peers take turns within each row of each round, so that whatever else the machine does falls on all of
them; each measurement has a fresh server and a fresh client.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks.catalogue import PEERS, PeerSpec, select_peers
from benchmarks.chart import ChartError, render_chart
from benchmarks.processes import PLACEMENTS, PeerFailed, run_client, running_server
from benchmarks.results import Failure, Options, Results, Sample, describe_machine
from benchmarks.rows import BASELINE, QUIC_BASELINE, ROWS, Kind, Row
from benchmarks.table import format_value, render_table

__all__ = ["Options", "Results", "main", "run_benchmarks"]

PATIENCE_S = 60.0
PATIENCE_PER_IDLE_CONNECTION_S = 0.2


def run_benchmarks(options: Options, report: Callable[[str], None]) -> Results:
    """Measure what the options name, telling each step as one line of text.

    Peers that are not installed and measurements that fail are recorded and told, never raised. On
    KeyboardInterrupt every process is ended and what was found so far is returned, marked as interrupted.
    """
    results = Results(options, describe_machine())
    peers: list[PeerSpec] = []
    for name in options.peers:
        lacking = PEERS[name].missing()
        if lacking is None:
            peers.append(PEERS[name])
        else:
            results.missing[name] = lacking
            report(f"{name}: {lacking}")
    try:
        for number in range(1, options.rounds + 1):
            for key in options.rows:
                for spec in peers:
                    _measure_once(results, spec, ROWS[key], number, report)
    except KeyboardInterrupt:
        results.interrupted = True
        report("interrupted: every process of the run is ended")
    return results


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; the status is 1 when a measurement failed, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        peers = select_peers(arguments.peers.split(",")) if arguments.peers else tuple(PEERS)
        rows = _select_rows(arguments.rows)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    options = Options(
        peers=peers,
        rows=rows,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        warmup_s=arguments.warmup,
        idle_connections=arguments.idle_connections,
        placement=arguments.placement,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    results = run_benchmarks(options, lambda line: print(line, file=sys.stderr, flush=True))
    print(render_table(results), end="")
    if arguments.json:
        _write(arguments.json, json.dumps(results.to_json(), indent=2) + "\n")
    if arguments.chart:
        try:
            _write(arguments.chart, render_chart(results))
        except ChartError as error:
            print(f"no chart written: {error}", file=sys.stderr)
    if results.interrupted:
        return 130
    return 1 if results.failures or not results.samples else 0


def _measure_once(results: Results, spec: PeerSpec, row: Row, number: int, report: Callable[[str], None]) -> None:
    """Measure one peer in one row with processes of its own, and record what came of it."""
    options = results.options
    where = f"round {number}/{options.rounds}  {row.key:<4}  {spec.name:<18}"
    if spec.in_process and row.kind is Kind.IDLE:
        if number == 1:
            results.missing[f"{spec.name}, row {row.key}"] = "client and server share a process"
        return
    arguments = ["--row", row.key, "--seconds", str(options.seconds), "--warmup", str(options.warmup_s)]
    arguments += ["--connections", str(options.idle_connections)]
    timeout_s = PATIENCE_S + 2 * (options.seconds + options.warmup_s)
    if row.kind is Kind.IDLE:
        timeout_s += PATIENCE_PER_IDLE_CONNECTION_S * options.idle_connections
    with tempfile.TemporaryDirectory(prefix="echostream-bench-") as folder:
        workdir = Path(folder)
        try:
            with running_server(spec, workdir, options.placement) as server:
                figures = run_client(spec, workdir, options.placement, server, arguments, timeout_s)
        except PeerFailed as error:
            results.failures.append(Failure(spec.name, row.key, number, str(error)))
            report(f"{where}  FAILED: {error}")
            return
    results.samples.append(Sample(spec.name, row.key, number, figures))
    report(f"{where}  {format_value(figures['value']):>10} {row.unit}")


def _select_rows(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    unknown = [key for key in chosen if key not in ROWS]
    if unknown:
        raise ValueError(f"no row is called {unknown[0]!r}; there are {', '.join(ROWS)}")
    return tuple(key for key in ROWS if key in chosen)


def _parser() -> argparse.ArgumentParser:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=f"EchoStream beside its peers: ratios to {BASELINE}, QUIC bulk also to {QUIC_BASELINE}",
    )
    parser.add_argument("--rounds", type=_positive_int, default=defaults.rounds, help="interleaved rounds")
    parser.add_argument("--seconds", type=_positive, default=defaults.seconds, help="length of a measurement")
    parser.add_argument("--warmup", type=_positive, default=defaults.warmup_s, help="seconds before each one")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--peers", default="", help=f"some of {','.join(PEERS)}; 'echostream' is all of ours")
    parser.add_argument(
        "--idle-connections", type=_positive_int, default=defaults.idle_connections, help="held in row 'idle'"
    )
    parser.add_argument(
        "--placement",
        choices=sorted(PLACEMENTS),
        default=defaults.placement,
        help="cores: as the scheduler likes, one for each end, or one for both",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every round's figures here")
    parser.add_argument("--chart", type=Path, metavar="PATH.svg", help="draw the ratios here")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 3600, not {text}")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Make SIGTERM end the run as Ctrl-C does, with every process ended."""
    raise KeyboardInterrupt


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
