"""The run as aligned plain text: absolute figures, spread and ratios, one section per row."""

from typing import Final

from benchmarks.catalogue import PEERS
from benchmarks.results import Results
from benchmarks.rows import BASELINE, QUIC_BASELINE, ROWS, Kind, Row
from benchmarks.targets import judge

__all__ = ["format_value", "render_table"]

BUSY_LOAD: Final = 0.5
"""A load average above this means that other work takes part in the figures."""

CPU_FIGURES: Final = {
    Kind.CALLS: ("cpu_us_per_call", "cpu us"),
    Kind.BULK: ("cpu_us_per_mb", "cpu us/MB"),
}
"""Processor time of both ends: the figure's name and the column's."""


def render_table(results: Results) -> str:
    """The whole report: machine, a section per row, targets, and whatever could not be measured."""
    parts = [_heading(results)]
    parts += [_section(results, ROWS[key]) for key in results.options.rows]
    verdicts = judge(results)
    if verdicts:
        parts.append("targets\n" + _indented(verdicts))
    if results.missing:
        parts.append("left out\n" + _indented([f"{peer}: {why}" for peer, why in results.missing.items()]))
    if results.failures:
        lines = [f"{f.row} {f.peer}, round {f.round}: {f.reason}" for f in results.failures]
        parts.append("failed\n" + _indented(lines))
    if results.interrupted:
        parts.append("interrupted: the figures above are of the rounds that were finished")
    return "\n\n".join(parts) + "\n"


def format_value(value: float) -> str:
    """Two or more significant figures, with separators."""
    if value >= 100:
        return f"{value:,.0f}"
    decimals = 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{decimals}f}"


def _heading(results: Results) -> str:
    machine, options = results.machine, results.options
    versions, load = machine["versions"], machine["load_before"]
    rounds = f"medians of {options.rounds} interleaved rounds of {options.seconds:g} s"
    lines = [
        f"{machine['python']}, {machine['kernel']}, {machine['processor']}, {machine['cores_usable']} cores",
        ", ".join(f"{name} {v}" for name, v in versions.items()) if isinstance(versions, dict) else "",
        f"{rounds}, placement {options.placement}",
        "only ratios within this run mean anything, and differences under 1.3 x are noise",
    ]
    if isinstance(load, float) and load > BUSY_LOAD:
        lines.append(f"THE MACHINE WAS BUSY, load {load:g} before the run: peers with threads suffer most from that")
    return "\n".join(lines)


def _section(results: Results, row: Row) -> str:
    peers = results.measured_peers(row.key)
    note = " (less is better)" if row.less_is_better else ""
    title = f"{row.key}: {row.title}, {row.unit}{note}"
    if not peers:
        return f"{title}\n  nothing measured"
    header = ["peer", "median", "lowest", "highest", f"x {BASELINE}"]
    with_stock = row.kind is Kind.BULK and results.median(QUIC_BASELINE, row.key) is not None
    header += [f"x {QUIC_BASELINE}"] * with_stock + ["p50 us", "p99 us"] * row.timed
    cpu = CPU_FIGURES.get(row.kind)
    header += [cpu[1]] if cpu else []
    table = [header]
    for peer in peers:
        values = results.values(peer, row.key)
        spread = (results.median(peer, row.key) or 0.0, min(values), max(values))
        cells = [peer, *map(format_value, spread)]
        cells.append(_optional(results.ratio(peer, row.key)))
        if with_stock:
            quic = PEERS[peer].quic
            cells.append(_optional(results.ratio(peer, row.key, QUIC_BASELINE) if quic else None))
        if row.timed:
            cells += [_optional(results.median(peer, row.key, name)) for name in ("p50_us", "p99_us")]
        cells += [_optional(results.median(peer, row.key, cpu[0]))] if cpu else []
        table.append(cells)
    return f"{title}\n{_indented(_aligned(table))}"


def _optional(value: float | None) -> str:
    return "-" if value is None else format_value(value)


def _aligned(table: list[list[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = []
    for name, *figures in table:
        right = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return lines


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
