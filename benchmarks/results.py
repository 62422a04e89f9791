"""What a run found: every round's figures, their medians, the ratios, and the facts about the machine."""

import datetime
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.catalogue import PEERS, installed_versions
from benchmarks.rows import BASELINE, ROWS

__all__ = ["Failure", "Options", "Results", "Sample", "describe_machine"]


@dataclass(frozen=True, slots=True)
class Options:
    """What to run: peers and rows by name, how many rounds, how long each measurement."""

    peers: tuple[str, ...] = tuple(PEERS)
    rows: tuple[str, ...] = tuple(ROWS)
    rounds: int = 3
    seconds: float = 2.0
    warmup_s: float = 0.5
    idle_connections: int = 1000
    placement: str = "free"


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer's figures in one row and round."""

    peer: str
    row: str
    round: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Failure:
    """One measurement that did not come about, and why."""

    peer: str
    row: str
    round: int
    reason: str


@dataclass(slots=True)
class Results:
    """Everything a run found; complete as far as it went, also after an interruption."""

    options: Options
    machine: dict[str, object]
    missing: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False

    def values(self, peer: str, row: str, figure: str = "value") -> list[float]:
        """One figure of every round that has it."""
        return [
            sample.figures[figure]
            for sample in self.samples
            if sample.peer == peer and sample.row == row and figure in sample.figures
        ]

    def median(self, peer: str, row: str, figure: str = "value") -> float | None:
        """The median over the rounds, or None without any."""
        values = self.values(peer, row, figure)
        return statistics.median(values) if values else None

    def ratio(self, peer: str, row: str, baseline: str = BASELINE) -> float | None:
        """The median relative to another peer's, or None when either is missing."""
        ours, theirs = self.median(peer, row), self.median(baseline, row)
        return ours / theirs if ours is not None and theirs else None

    def measured_peers(self, row: str) -> list[str]:
        """The peers with a figure in this row, in the catalogue's order."""
        return [peer for peer in self.options.peers if self.values(peer, row)]

    def to_json(self) -> dict[str, object]:
        """Plain data for a JSON file: raw figures of each round, medians, and ratios to the baseline."""
        medians: dict[str, dict[str, dict[str, float]]] = {}
        for row in self.options.rows:
            for peer in self.measured_peers(row):
                medians.setdefault(row, {})[peer] = self._summary(peer, row)
        return {
            "machine": self.machine,
            "options": asdict(self.options),
            "baseline": BASELINE,
            "rows": {key: {"title": ROWS[key].title, "unit": ROWS[key].unit} for key in self.options.rows},
            "medians": medians,
            "rounds": [asdict(sample) for sample in self.samples],
            "missing": self.missing,
            "failures": [asdict(failure) for failure in self.failures],
            "interrupted": self.interrupted,
        }

    def _summary(self, peer: str, row: str) -> dict[str, float]:
        names = {name for s in self.samples if s.peer == peer and s.row == row for name in s.figures}
        summary = {name: statistics.median(self.values(peer, row, name)) for name in sorted(names)}
        ratio = self.ratio(peer, row)
        if ratio is not None:
            summary["ratio"] = ratio
        return summary


def describe_machine() -> dict[str, object]:
    """Facts without which a figure cannot be read."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": installed_versions(),
        "commit": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str:
    """The checkout's commit, or an empty text outside a checkout or before its first commit."""
    folder = str(Path(__file__).resolve().parent)
    command = ["git", "-C", folder, "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
