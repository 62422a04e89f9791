"""The ratios as a picture: grouped horizontal bars on a logarithmic axis, in plain SVG.

Bars start at 1, the baseline: to the right is more than the baseline, to the left less. So the length of a
bar is how far a peer is from the baseline, the same in both directions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.results import Results
from benchmarks.rows import BASELINE, ROWS, Row
from benchmarks.table import format_value

__all__ = ["ChartError", "render_chart"]

WIDTH: Final = 960
LEFT: Final = 170
RIGHT: Final = 190
TOP: Final = 96
BAR: Final = 16
BAR_GAP: Final = 5
GROUP_HEAD: Final = 24
GROUP_GAP: Final = 20
FOOT: Final = 86

# Ours in blues, the others in greys and an orange; every bar is labelled, so colour carries no meaning alone.
COLOURS: Final = {
    "raw_asyncio": "#9aa3ad",
    "grpc_aio": "#5b6570",
    "aioquic_stock": "#c9772b",
    "echostream_memory": "#9db9e8",
    "echostream_unix": "#5f8fdc",
    "echostream_tcp": "#1f5fbf",
    "echostream_quic": "#123a78",
}


class ChartError(Exception):
    """There is nothing to draw: without the baseline there are no ratios."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis over whole decades."""

    lowest: float
    highest: float

    def x(self, ratio: float) -> float:
        """Where a ratio stands."""
        span = math.log10(self.highest) - math.log10(self.lowest)
        return LEFT + (math.log10(ratio) - math.log10(self.lowest)) / span * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> Iterator[tuple[float, bool]]:
        """Each mark at 1, 2 and 5 times a power of ten, and whether it is a power of ten."""
        for decade in range(round(math.log10(self.lowest)), round(math.log10(self.highest)) + 1):
            for step in (1, 2, 5):
                ratio = step * 10.0**decade
                if ratio <= self.highest:
                    yield ratio, step == 1


def render_chart(results: Results) -> str:
    """The chart as one SVG document. Raises ChartError when the run has no ratios."""
    groups = [(ROWS[key], _ratios(results, key)) for key in results.options.rows]
    groups = [(row, ratios) for row, ratios in groups if ratios]
    if not groups:
        raise ChartError(f"no ratios to draw: {BASELINE} was not measured")
    axis = _axis([ratio for _, ratios in groups for ratio in ratios.values()])
    body, y = [], float(TOP)
    for row, ratios in groups:
        body.append(_text(16, y + 15, f"{row.key}: {row.title}{_note(row)}", "group"))
        y += GROUP_HEAD
        for peer, ratio in ratios.items():
            body += _bar(results, axis, row, peer, ratio, y)
            y += BAR + BAR_GAP
        y += GROUP_GAP
    bottom = y - GROUP_GAP + 4
    return "\n".join([*_opening(results, bottom + FOOT), *_grid(axis, bottom), *body, "</svg>"]) + "\n"


def _ratios(results: Results, row: str) -> dict[str, float]:
    found = {peer: results.ratio(peer, row) for peer in results.measured_peers(row)}
    return {peer: ratio for peer, ratio in found.items() if ratio is not None and ratio > 0}


def _axis(ratios: list[float]) -> _Axis:
    lowest = 10.0 ** math.floor(math.log10(min(*ratios, 0.99)))
    highest = 10.0 ** math.ceil(math.log10(max(*ratios, 1.01)))
    return _Axis(lowest, highest)


def _bar(results: Results, axis: _Axis, row: Row, peer: str, ratio: float, y: float) -> list[str]:
    start, end = sorted((axis.x(1.0), axis.x(ratio)))
    width = max(end - start, 1.5)
    value = results.median(peer, row.key) or 0.0
    label = f"{format_value(ratio)} \u00d7   ({format_value(value)} {row.unit})"
    colour = COLOURS.get(peer, "#7a5aa6")
    middle = y + BAR - 4
    return [
        _text(LEFT - 10, middle, peer, "peer"),
        f'<rect x="{start:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
        _text(end + 6, middle, label, "value"),
    ]


def _grid(axis: _Axis, bottom: float) -> list[str]:
    lines = []
    for ratio, decade in axis.ticks():
        x, kind = axis.x(ratio), "one" if ratio == 1 else "decade" if decade else "minor"
        lines.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom:.1f}"/>')
        if decade or axis.highest / axis.lowest <= 1000:
            lines.append(_text(x, bottom + 18, f"{ratio:g}", "tick"))
    centre = (LEFT + WIDTH - RIGHT) / 2
    lines.append(_text(centre, bottom + 42, f"ratio to {BASELINE} in the same run, logarithmic", "axis"))
    return lines


def _opening(results: Results, height: float) -> list[str]:
    machine, options = results.machine, results.options
    length = f"{options.rounds} interleaved rounds, {options.seconds:g} s each"
    what = f"median of {length}, placement {options.placement}"
    where = f"{machine['python']}, {machine['kernel']}, {machine['cores_usable']} cores, {machine['date']}"
    style = (
        "text{font-family:Helvetica,Arial,DejaVu Sans,sans-serif;fill:#222}"
        ".title{font-size:20px;font-weight:bold}.sub{font-size:12px;fill:#555}"
        ".group{font-size:13px;font-weight:bold}.peer{font-size:12px;text-anchor:end}"
        ".value{font-size:11px;fill:#333;paint-order:stroke;stroke:#fff;stroke-width:3px}"
        ".tick{font-size:11px;text-anchor:middle;fill:#555}.axis{font-size:12px;text-anchor:middle;fill:#333}"
        ".minor{stroke:#eef0f2}.decade{stroke:#d5d9de}.one{stroke:#333;stroke-width:1.5}"
    )
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="title">',
        '<title id="title">EchoStream and its peers, relative to grpc.aio</title>',
        f"<style>{style}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(16, 32, "EchoStream and its peers, relative to grpc.aio", "title"),
        _text(16, 52, what, "sub"),
        _text(16, 69, where, "sub"),
    ]


def _note(row: Row) -> str:
    return " (less is better)" if row.less_is_better else ""


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
