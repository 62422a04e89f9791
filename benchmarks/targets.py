"""What we said we must reach, so that a run can tell by itself whether it does.

Source: docs/performance.md. A target is a ratio to another peer in the same run, or an absolute bound.
"""

from dataclasses import dataclass
from typing import Final

from benchmarks.results import Results
from benchmarks.rows import BASELINE, QUIC_BASELINE, ROWS

__all__ = ["TARGETS", "Target", "judge"]


@dataclass(frozen=True, slots=True)
class Target:
    """At least ``ratio`` times another peer, or at most ``at_most`` in the row's unit."""

    peer: str
    row: str
    ratio: float = 0.0
    baseline: str = BASELINE
    at_most: float = 0.0


TARGETS: Final = (
    Target("echostream_tcp", "a", 4),
    Target("echostream_quic", "a", 1),
    Target("echostream_tcp", "b", 15),
    Target("echostream_quic", "b", 6),
    Target("echostream_tcp", "c", 6),
    Target("echostream_tcp", "d", 2),
    Target("echostream_ws", "b", 0.8, baseline="websockets"),
    Target("echostream_ws", "b", 5, baseline="socketio"),
    Target("echostream_quic", "d", 2, baseline=QUIC_BASELINE),
    Target("echostream_tcp", "idle", at_most=12),
)


def judge(results: Results) -> list[str]:
    """One line per target that this run can judge."""
    lines = []
    for target in TARGETS:
        if target.at_most:
            found = results.median(target.peer, target.row)
            wanted = f"at most {target.at_most:g} {ROWS[target.row].unit}"
            met = found is not None and found <= target.at_most
        else:
            found = results.ratio(target.peer, target.row, target.baseline)
            wanted = f"at least {target.ratio:g} x {target.baseline}"
            met = found is not None and found >= target.ratio
        if found is not None:
            verdict = "met" if met else "MISSED"
            lines.append(f"{verdict:<7} {target.row:<5} {target.peer:<18} {wanted}: {found:.2f}")
    return lines
