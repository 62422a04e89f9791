"""The line that is being typed: a text, a cursor and earlier lines, changed by keys. It knows nothing of terminals."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Final

__all__ = ["End", "LineEditor", "width"]

_KEYS: Final = {
    "\x1b[D": "left",
    "\x1b[C": "right",
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b[3~": "delete",
    "\x1bOD": "left",
    "\x1bOC": "right",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x01": "home",
    "\x05": "end",
    "\x02": "left",
    "\x06": "right",
    "\x10": "up",
    "\x0e": "down",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "clear",
    "\x0b": "cut",
    "\x17": "word",
}
_MAX_SEQUENCE: Final = 8
_REMEMBERED: Final = 100


class End(Exception):
    """Ctrl-D on an empty line."""


@dataclass
class LineEditor:
    """Feed it what the keyboard sends; it answers with the lines that are complete."""

    text: str = ""
    cursor: int = 0
    """In characters, from 0 to ``len(text)``."""
    _earlier: list[str] = field(default_factory=list)
    _shown: int = 0
    """Which of the earlier lines is shown, counted from the newest, 1; 0: a new one."""
    _draft: str = ""
    _pending: str = ""

    def feed(self, typed: str) -> list[str]:
        """The lines that ``typed`` completes. End when the reader has had enough."""
        lines: list[str] = []
        for sign in typed:
            if self._pending:
                self._escape(sign)
            elif sign == "\x1b":
                self._pending = sign
            elif sign in "\r\n":
                lines.append(self._take())
            elif sign == "\x04" and not self.text:
                raise End
            elif sign in _KEYS:
                self._press(_KEYS[sign])
            elif unicodedata.category(sign) != "Cc":
                self._set(self.text[: self.cursor] + sign + self.text[self.cursor :], self.cursor + 1)
        return lines

    def visible(self, columns: int) -> tuple[str, int]:
        """The part of the line that fits into ``columns``, the cursor in it, and the column of the cursor."""
        begin = end = self.cursor
        used = 0
        while begin and (used := used + width(self.text[begin - 1])) < columns:
            begin -= 1
        used = width(self.text[begin:end])
        while end < len(self.text) and (used := used + width(self.text[end])) < columns:
            end += 1
        return self.text[begin:end], width(self.text[begin : self.cursor])

    def _take(self) -> str:
        line = self.text
        if line and (not self._earlier or self._earlier[-1] != line):
            self._earlier.append(line)
            del self._earlier[:-_REMEMBERED]
        self._shown = 0
        self._set("", 0)
        return line

    def _escape(self, sign: str) -> None:
        """A key that sends several characters; one that is not known does nothing."""
        self._pending += sign
        known = _KEYS.get(self._pending)
        introduced = self._pending in ("\x1b[", "\x1bO")
        if known is not None:
            self._press(known)
        if known is not None or len(self._pending) >= _MAX_SEQUENCE or (not introduced and "@" <= sign <= "~"):
            self._pending = ""

    def _press(self, key: str) -> None:
        text, cursor = self.text, self.cursor
        if key == "left":
            self.cursor = max(0, cursor - 1)
        elif key == "right":
            self.cursor = min(len(text), cursor + 1)
        elif key == "home":
            self.cursor = 0
        elif key == "end":
            self.cursor = len(text)
        elif key == "backspace" and cursor:
            self._set(text[: cursor - 1] + text[cursor:], cursor - 1)
        elif key == "delete":
            self._set(text[:cursor] + text[cursor + 1 :], cursor)
        elif key == "clear":
            self._set(text[cursor:], 0)
        elif key == "cut":
            self._set(text[:cursor], cursor)
        elif key == "word":
            kept = text[:cursor].rstrip()
            kept = kept[: kept.rfind(" ") + 1]
            self._set(kept + text[cursor:], len(kept))
        elif key in ("up", "down"):
            self._recall(1 if key == "up" else -1)

    def _recall(self, step: int) -> None:
        wanted = self._shown + step
        if not 0 <= wanted <= len(self._earlier):
            return
        if self._shown == 0:
            self._draft = self.text
        self._shown = wanted
        text = self._earlier[-wanted] if wanted else self._draft
        self._set(text, len(text))

    def _set(self, text: str, cursor: int) -> None:
        self.text, self.cursor = text, cursor


def width(text: str) -> int:
    """The columns that ``text`` takes: two for wide characters, none for accents that join the one before."""
    return sum(
        0
        if unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Cf")
        else 2
        if unicodedata.east_asian_width(sign) in "WF"
        else 1
        for sign in text
    )
