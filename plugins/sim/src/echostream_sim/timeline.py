"""Draws the record of a network as an SVG picture: hosts are lanes, time runs to the right, packets are slanted lines.

From top to bottom: the title and what became of the packets; one lane per host with the packets between the lanes,
coloured by their fate, and with partitions shaded; one strip per bottleneck with what waited in its queue; the axis of
time. A packet that waited in a queue runs along its sender's lane meanwhile. A lost one ends in a cross: near its
sender when it was not let in (queue full, too large, partition), half way for the loss model, at the receiver when
nobody was bound there; its slant is the median of its direction. Hovering shows a packet's numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import floor, log10
from statistics import median
from typing import Final

from echostream_sim.recorder import Event

__all__ = ["draw_timeline"]

_LEFT: Final = 112.0
_RIGHT: Final = 28.0
_FIRST_LANE: Final = 104.0
_STRIP_HEIGHT: Final = 44.0
_STRIP_GAP: Final = 26.0
_MAX_STRIPS: Final = 8

_INK: Final = "#1f2933"
_FAINT: Final = "#7b8794"
_GRID: Final = "#e4e7eb"
_LANE: Final = "#9aa5b1"

_COLOURS: Final = {
    "delivered": "#2f6fb0",
    "copy": "#128a7d",
    "held": "#7c4dbd",
    "loss": "#d23b3b",
    "queue": "#dd7f0c",
    "partition": "#5a6673",
    "too_large": "#b0177f",
    "no_port": "#7a5230",
    "no_host": "#7a5230",
    "under way": "#a9b8c6",
}
_WORDS: Final = {
    "delivered": "delivered",
    "copy": "delivered copy",
    "held": "held back",
    "loss": "lost on the way",
    "queue": "queue full",
    "partition": "partition",
    "too_large": "over the MTU",
    "no_port": "nobody on the port",
    "no_host": "no such host",
    "under way": "under way",
}
_WHERE: Final = {"queue": 0.16, "too_large": 0.16, "loss": 0.5, "no_host": 0.3, "no_port": 1.0}
"""How far on its way a lost packet is drawn."""

_STYLE: Final = f"""
text {{ font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: {_INK}; }}
.title {{ font-size: 17px; font-weight: 600; }}
.faint {{ fill: {_FAINT}; font-size: 11px; }}
.host {{ font-weight: 600; text-anchor: end; }}
.tick {{ fill: {_FAINT}; font-size: 11px; text-anchor: middle; }}
.packet {{ fill: none; stroke-linecap: round; stroke-linejoin: round; }}
.packet:hover {{ stroke-width: 3.5; stroke-opacity: 1; }}
"""


@dataclass(slots=True)
class _Journey:
    """What the record says of one packet."""

    sent: Event
    is_copy: bool = False
    is_held: bool = False
    dequeued_s: float | None = None
    end: Event | None = None

    @property
    def kind(self) -> str:
        """The key of its colour."""
        if self.end is None:
            return "under way"
        if self.end.fate == "lost":
            return self.end.reason
        return "copy" if self.is_copy else "held" if self.is_held else "delivered"


@dataclass(slots=True)
class _Scene:
    """All that is drawn, and where time and hosts are on the paper."""

    start_s: float
    end_s: float
    width: float
    lanes: dict[str, float] = field(default_factory=dict)
    journeys: list[_Journey] = field(default_factory=list)
    queues: dict[tuple[str, str], list[Event]] = field(default_factory=dict)
    notes: list[Event] = field(default_factory=list)
    partitions: list[tuple[float, float, str, str, bool]] = field(default_factory=list)
    bottom: float = 0.0
    """Of the lanes."""

    def x(self, time_s: float) -> float:
        """Where a moment is."""
        share = (time_s - self.start_s) / (self.end_s - self.start_s)
        return _LEFT + share * (self.width - _LEFT - _RIGHT)

    def is_shown(self, time_s: float) -> bool:
        """Whether a moment is on the paper."""
        return self.start_s <= time_s <= self.end_s


def draw_timeline(
    events: Iterable[Event],
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    title: str = "",
    width_px: int = 1200,
    max_packets: int = 3000,
    forgotten: int = 0,
) -> str:
    """The picture of ``events``, in the order of the record, as the text of an SVG file.

    Of more than ``max_packets`` packets every lost one is drawn before any delivered one, and those left out are
    counted at the bottom. ``forgotten`` events, which the record no longer has, are mentioned there too.
    """
    kept = list(events)
    first = kept[0].time_s if kept else 0.0
    last = kept[-1].time_s if kept else 0.0
    begin = first if start_s is None else start_s
    finish = last if end_s is None else end_s
    scene = _Scene(begin, finish if finish > begin else begin + 1e-3, float(max(width_px, 480)))
    _gather(scene, kept)
    shown = _chosen(scene.journeys, max_packets)
    body: list[str] = []
    body += _partitions(scene)
    body += _lanes(scene)
    body += _packets(scene, shown)
    body += _notes(scene)
    strips, bottom = _strips(scene)
    body += strips
    left_out = len(scene.journeys) - len(shown)
    remarks = [f"{left_out:,} delivered packets are not drawn"] if left_out else []
    remarks += [f"{forgotten:,} older events are no longer in the record"] if forgotten else []
    height = bottom + (64 if remarks else 46)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{scene.width:g}" height="{height:g}" '
        f'viewBox="0 0 {scene.width:g} {height:g}" role="img">',
        f"<title>{escape(title or 'Simulated network')}</title>",
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text class="title" x="20" y="32">{escape(title or "Simulated network")}</text>',
        *_legend(scene),
        *_axis(scene, bottom),
    ]
    foot = [f'<text class="faint" x="20" y="{bottom + 52:g}">{escape("; ".join(remarks))}</text>'] if remarks else []
    return "\n".join([*head, *body, *foot, "</svg>", ""])


def _gather(scene: _Scene, events: Sequence[Event]) -> None:
    journeys: dict[int, _Journey] = {}
    open_cuts: dict[tuple[str, str], tuple[float, bool]] = {}
    hosts: dict[str, None] = {}
    for event in events:
        if event.fate == "partitioned":
            open_cuts.setdefault((event.source, event.destination), (event.time_s, event.reason == "one way"))
        elif event.fate == "healed":
            for pair in [pair for pair in open_cuts if _heals(event, pair)]:
                since, one_way = open_cuts.pop(pair)
                scene.partitions.append((since, event.time_s, *pair, one_way))
        elif event.fate == "note":
            hosts.setdefault(event.source)
            if scene.is_shown(event.time_s):
                scene.notes.append(event)
        else:
            hosts.setdefault(event.source)
            hosts.setdefault(event.destination)
            _follow(journeys, event)
            if event.fate in ("queued", "dequeued") or (event.fate == "lost" and event.reason == "queue"):
                scene.queues.setdefault((event.source, event.destination), []).append(event)
    scene.partitions += [(since, scene.end_s, *pair, one_way) for pair, (since, one_way) in open_cuts.items()]
    unknown = {journey.sent.destination for journey in journeys.values() if journey.kind == "no_host"}
    names = [name for name in hosts if name not in unknown]
    spacing = max(70.0, min(190.0, 520.0 / max(1, len(names) - 1)))
    scene.lanes = {name: _FIRST_LANE + number * spacing for number, name in enumerate(names)}
    scene.bottom = _FIRST_LANE + spacing * max(0, len(names) - 1) + 18
    scene.journeys = [one for one in journeys.values() if _touches(scene, one)]


def _heals(event: Event, pair: tuple[str, str]) -> bool:
    """Whether a ``healed`` event ends the partition of a pair; a star stands for everybody."""
    if event.source == "*":
        return True
    return pair in ((event.source, event.destination), (event.destination, event.source))


def _follow(journeys: dict[int, _Journey], event: Event) -> None:
    journey = journeys.get(event.packet)
    if journey is None:
        # A ring may have forgotten how the packet began: then it is drawn from what is known of it.
        journeys[event.packet] = journey = _Journey(event, is_copy=event.fate == "duplicated")
    if event.fate == "held":
        journey.is_held = True
    elif event.fate == "dequeued":
        journey.dequeued_s = event.time_s
    elif event.fate in ("delivered", "lost"):
        journey.end = event


def _touches(scene: _Scene, journey: _Journey) -> bool:
    end_s = journey.end.time_s if journey.end is not None else scene.end_s
    return journey.sent.time_s <= scene.end_s and end_s >= scene.start_s


def _chosen(journeys: list[_Journey], maximum: int) -> list[_Journey]:
    if len(journeys) <= maximum:
        return journeys
    lost = [one for one in journeys if one.end is not None and one.end.fate == "lost"][:maximum]
    others = [one for one in journeys if one.end is None or one.end.fate != "lost"]
    room = maximum - len(lost)
    return lost + [others[number * len(others) // room] for number in range(room)]


def _lanes(scene: _Scene) -> list[str]:
    right = scene.width - _RIGHT
    out = []
    for name, y in scene.lanes.items():
        out.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="{_LANE}" stroke-width="1.5"/>'
        )
        out.append(f'<text class="host" x="{_LEFT - 12}" y="{y + 4:.1f}">{escape(name)}</text>')
    return out


def _partitions(scene: _Scene) -> list[str]:
    out = [
        '<defs><pattern id="cut" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="8" height="8" fill="#eef1f4"/><line x1="0" y1="0" x2="0" y2="8" stroke="#cbd2d9" '
        'stroke-width="3"/></pattern></defs>'
    ]
    for since, until, first, second, one_way in scene.partitions:
        since, until = max(since, scene.start_s), min(until, scene.end_s)
        if until < since or first not in scene.lanes:
            continue
        y1 = scene.lanes[first]
        y2 = scene.lanes.get(second, y1)
        top, bottom = min(y1, y2), max(y1, y2)
        if second == "*":
            top, bottom = y1 - 24, y1 + 24
        x1, x2 = scene.x(since), scene.x(until)
        label = f"{first} is cut off" if second == "*" else f"{first} {'→' if one_way else '↔'} {second} partitioned"
        out.append(
            f'<rect x="{x1:.1f}" y="{top:.1f}" width="{max(1.0, x2 - x1):.1f}" height="{bottom - top:.1f}" '
            f'fill="url(#cut)" fill-opacity="0.8"><title>{escape(label)}, {since:.6g} s to {until:.6g} s</title></rect>'
        )
        if x2 - x1 > 5.6 * len(label):
            middle = (x1 + x2) / 2
            y = (top + bottom) / 2 if second != "*" else bottom - 6
            out.append(f'<text class="faint" text-anchor="middle" x="{middle:.1f}" y="{y:.1f}">{escape(label)}</text>')
    return out


def _packets(scene: _Scene, journeys: Sequence[_Journey]) -> list[str]:
    typical = _typical_journeys(scene)
    opacity = 0.9 if len(journeys) < 300 else 0.55 if len(journeys) < 1200 else 0.3
    width = 1.6 if len(journeys) < 300 else 1.1
    # The lost ones on top: they are what one looks for.
    ordered = sorted(journeys, key=lambda one: one.end is not None and one.end.fate == "lost")
    out = []
    for journey in ordered:
        out += _packet(scene, journey, typical, opacity, width)
    # What began before the paper or ends behind it is cut off at its edges.
    window = f'x="{_LEFT}" y="0" width="{scene.width - _LEFT - _RIGHT + 8:.1f}" height="{scene.bottom + 8:.1f}"'
    return [f'<clipPath id="window"><rect {window}/></clipPath><g clip-path="url(#window)">', *out, "</g>"]


def _typical_journeys(scene: _Scene) -> dict[tuple[str, str], float]:
    """The median time on the way of each direction, from the bottleneck to the receiver."""
    times: dict[tuple[str, str], list[float]] = {}
    for one in scene.journeys:
        if one.end is not None and one.end.fate == "delivered":
            left_s = one.dequeued_s if one.dequeued_s is not None else one.sent.time_s
            times.setdefault((one.sent.source, one.sent.destination), []).append(one.end.time_s - left_s)
    return {direction: median(found) for direction, found in times.items()}


def _packet(
    scene: _Scene, journey: _Journey, typical: dict[tuple[str, str], float], opacity: float, width: float
) -> list[str]:
    sent, end, kind = journey.sent, journey.end, journey.kind
    y1 = scene.lanes[sent.source]
    y2 = scene.lanes.get(sent.destination, y1 + 40)
    down = 1.0 if y2 > y1 else -1.0 if y2 < y1 else 0.0
    left_s = journey.dequeued_s if journey.dequeued_s is not None else sent.time_s
    points = [(scene.x(sent.time_s), y1)]
    if journey.dequeued_s is not None and scene.x(left_s) - points[0][0] > 1.0:
        points += [(points[0][0], y1 + 5 * down), (scene.x(left_s), y1 + 5 * down)]
    guess_s = typical.get((sent.source, sent.destination), (scene.end_s - scene.start_s) / 40)
    is_lost = end is not None and end.fate == "lost"
    if end is None:
        points.append((scene.x(left_s + guess_s * 0.3), y1 + 0.3 * (y2 - y1)))
    elif not is_lost:
        points.append((scene.x(end.time_s), y2))
    else:
        share = _WHERE.get(kind, 0.16 if end.time_s == sent.time_s else 0.84)
        end_s = end.time_s if share > 0.8 else left_s + guess_s * share
        points.append((scene.x(end_s), y1 + share * (y2 - y1)))
    colour = _COLOURS[kind]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    if is_lost:
        line += f"M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6"
    elif down == 0.0:
        line += "m0-4a4 4 0 1 1-.1 0"
    dashes = ' stroke-dasharray="5 3"' if kind in ("held", "under way") else ""
    strength = 1.0 if is_lost else opacity
    return [
        f'<path class="packet" d="{line}" stroke="{colour}" stroke-width="{width:g}" stroke-opacity="{strength:g}"'
        f"{dashes}><title>{escape(_caption(journey))}</title></path>"
    ]


def _caption(journey: _Journey) -> str:
    sent, end = journey.sent, journey.end
    text = (
        f"packet {sent.packet}, {sent.size_bytes} bytes, {sent.source}:{sent.source_port} to "
        f"{sent.destination}:{sent.destination_port}, sent at {sent.time_s:.6f} s"
    )
    if journey.dequeued_s is not None:
        text += f", left the queue at {journey.dequeued_s:.6f} s"
    if end is None:
        return f"{text}, under way"
    what = "delivered" if end.fate == "delivered" else f"lost ({_WORDS.get(end.reason, end.reason)})"
    return f"{text}, {what} at {end.time_s:.6f} s"


def _notes(scene: _Scene) -> list[str]:
    out = []
    for note in scene.notes:
        x, y = scene.x(note.time_s), scene.lanes[note.source]
        anchor = "end" if x > scene.width - 160 else "start"
        shift = -5 if anchor == "end" else 5
        out.append(f'<path d="M{x:.1f} {y:.1f}v-14" stroke="{_INK}" stroke-width="1"/>')
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_INK}"/>')
        out.append(
            f'<text class="faint" text-anchor="{anchor}" x="{x + shift:.1f}" y="{y - 8:.1f}" '
            f'style="fill:{_INK}">{escape(note.reason)}</text>'
        )
    return out


def _strips(scene: _Scene) -> tuple[list[str], float]:
    """The queues of the bottlenecks, and where the picture ends below them."""
    out: list[str] = []
    y = scene.bottom
    for (source, destination), events in list(scene.queues.items())[:_MAX_STRIPS]:
        highest = max(event.queue_bytes for event in events)
        if not highest:
            continue
        top, y = y + _STRIP_GAP, y + _STRIP_GAP + _STRIP_HEIGHT
        out += _strip(scene, f"{source} → {destination}", events, highest, top)
    return out, y + 12


def _strip(scene: _Scene, name: str, events: Sequence[Event], highest: int, top: float) -> list[str]:
    base = top + _STRIP_HEIGHT
    left, right = _LEFT, scene.width - _RIGHT
    begin = base
    line = []
    for event in events:
        height = base - _STRIP_HEIGHT * event.queue_bytes / highest
        if event.time_s < scene.start_s:
            begin = height
        elif event.time_s <= scene.end_s:
            line.append(f"H{scene.x(event.time_s):.1f}V{height:.1f}")
    drops = [event for event in events if event.fate == "lost" and scene.is_shown(event.time_s)]
    colour = _COLOURS["queue"]
    area = f"M{left} {base:.1f}V{begin:.1f}{''.join(line)}H{right:.1f}V{base:.1f}Z"
    marks = "".join(f"M{scene.x(event.time_s):.1f} {top - 6:.1f}v6" for event in drops)
    label = f"queue of {name}, at most {highest:,} bytes" + (f", {len(drops):,} packets dropped" if drops else "")
    return [
        f'<text class="faint" x="{left}" y="{top - 8:.1f}">{escape(label)}</text>',
        f'<path d="{area}" fill="{colour}" fill-opacity="0.22" stroke="{colour}" stroke-width="1"/>',
        f'<line x1="{left}" y1="{base:.1f}" x2="{right:.1f}" y2="{base:.1f}" stroke="{_LANE}" stroke-width="1"/>',
        f'<path d="{marks}" stroke="{_COLOURS["loss"]}" stroke-width="1.2"/>' if marks else "",
    ]


def _legend(scene: _Scene) -> list[str]:
    counts = Counter(journey.kind for journey in scene.journeys)
    out = []
    x = 20.0
    for kind, colour in _COLOURS.items():
        if not counts[kind]:
            continue
        words = f"{_WORDS[kind]}: {counts[kind]:,}"
        dashes = ' stroke-dasharray="5 3"' if kind in ("held", "under way") else ""
        is_lost = kind in _WHERE or kind == "partition"
        cross = "m-13-3l6 6m0-6l-6 6" if is_lost else ""
        out.append(f'<path d="M{x:g} 56h20{cross}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        out.append(f'<text x="{x + 26:g}" y="60">{escape(words)}</text>')
        x += 26 + 7.0 * len(words) + 22
    return out


def _axis(scene: _Scene, bottom: float) -> list[str]:
    out = []
    step = _step((scene.end_s - scene.start_s) / max(4.0, (scene.width - _LEFT - _RIGHT) / 110))
    unit, scale = ("s", 1.0) if step >= 0.1 else ("ms", 1e3) if step >= 1e-4 else ("µs", 1e6)
    number = floor(scene.start_s / step)
    while (time_s := number * step) <= scene.end_s + step * 1e-6:
        if time_s >= scene.start_s - step * 1e-6:
            x = scene.x(time_s)
            out.append(
                f'<line x1="{x:.1f}" y1="{_FIRST_LANE - 14:g}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{_GRID}"/>'
                f'<text class="tick" x="{x:.1f}" y="{bottom + 16:.1f}">{time_s * scale:.9g} {unit}</text>'
            )
        number += 1
    return out


def _step(wanted: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not less than ``wanted``."""
    power: float = 10.0 ** floor(log10(wanted))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= wanted), 10.0 * power)
