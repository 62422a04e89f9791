"""The file that the demo sends when it is given none: a few seconds of music, made here."""

from __future__ import annotations

import math
import sys
import wave
from array import array
from pathlib import Path
from typing import Final

__all__ = ["write_music"]

RATE_HZ: Final = 44_100
CHORD_S: Final = 2.5
FULL_SCALE: Final = 32_767
LATER_SAMPLES: Final = 441
"""The right channel comes 10 ms after the left one, which sounds like a room."""

CHORDS: Final = (
    (174.61, 220.00, 261.63, 329.63),  # F major 7
    (196.00, 246.94, 293.66, 329.63),  # G 6
    (164.81, 196.00, 246.94, 293.66),  # E minor 7
    (220.00, 261.63, 329.63, 392.00),  # A minor 7
)
"""The progression, in hertz: it turns round and round."""


def write_music(path: Path, chords: int) -> None:
    """Write a WAV file of ``chords`` chords (16 bit, stereo): 441,000 bytes and 2.5 seconds each."""
    progression = [_chord(notes) for notes in CHORDS[:chords]]
    mono = array("h")
    for number in range(chords):
        mono.extend(progression[number % len(progression)])
    stereo = array("h", bytes(4 * len(mono)))
    stereo[0::2] = mono
    stereo[1::2] = mono[-LATER_SAMPLES:] + mono[:-LATER_SAMPLES]
    if sys.byteorder == "big":
        stereo.byteswap()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(stereo.tobytes())


def _chord(notes: tuple[float, ...]) -> array[int]:
    """One chord, struck and left to ring; it begins and ends in silence, so that chords join without a click."""
    count = int(RATE_HZ * CHORD_S)
    sound = [0.0] * count
    sin, turn = math.sin, 2 * math.pi / RATE_HZ
    for frequency in notes:
        step = frequency * turn
        sound = [value + sin(step * i) for i, value in enumerate(sound)]
    loudest = FULL_SCALE * 0.8 / len(notes)
    attack = RATE_HZ // 50
    samples = array("h")
    for i, value in enumerate(sound):
        envelope = min(1.0, i / attack) * (1 - i / count) ** 2
        samples.append(int(value * envelope * loudest))
    return samples
