"""Reads the lists of a large JSON file element by element: the whole is never in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_MAX_ELEMENT = 1 << 26  # letters; an element that does not end within them is none


def list_elements(pieces: Iterable[bytes], names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """``(name, element)`` for every element of the lists ``names`` of a JSON object that comes in ``pieces``, in the
    order of the file; other members are read over. Raises ``ValueError`` for what is no such JSON, and says where."""
    wanted = frozenset(names)
    text = _Text(pieces)
    text.expect("{")
    if text.take("}"):
        return
    while True:
        name = text.value()
        text.expect(":")
        if name not in wanted:
            text.value()
        else:
            text.expect("[")
            if not text.take("]"):
                while True:
                    yield name, text.value()
                    if text.take("]"):
                        break
                    text.expect(",")
        if text.take("}"):
            return
        text.expect(",")


class _Text:
    """Letters that come in pieces, and a place in them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._buffer, self._place, self._gone, self._ended = "", 0, 0, False

    def take(self, letter: str) -> bool:
        """Whether ``letter`` is next after white space; then it is passed."""
        self._skip_space()
        taken = self._buffer.startswith(letter, self._place)
        self._place += taken
        return taken

    def expect(self, letter: str) -> None:
        """Pass ``letter``."""
        if not self.take(letter):
            found = self._buffer[self._place : self._place + 1]
            raise self._error(
                f"{letter!r} is expected, not {found!r}" if found else f"it ends where {letter!r} should be"
            )

    def value(self) -> Any:
        """The next value."""
        self._skip_space()
        while True:
            try:
                value, end = self._parse(self._buffer, self._place)
                if end < len(self._buffer) or self._ended:  # a number may go on in the next piece
                    self._place = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended or len(self._buffer) - self._place > _MAX_ELEMENT:
                    raise self._error(error.msg) from None
            except RecursionError:
                raise self._error("it is nested too deeply") from None
            # At least as much again, so that a long element is not begun anew for every piece.
            self._more(at_least=len(self._buffer) - self._place)

    def _skip_space(self) -> None:
        while True:
            found = _SPACE.match(self._buffer, self._place)
            assert found is not None
            self._place = found.end()
            if self._place < len(self._buffer) or self._ended:
                return
            self._more(at_least=1)

    def _more(self, *, at_least: int) -> None:
        parts = [self._buffer[self._place :]]
        self._gone += self._place
        self._place = 0
        length = 0
        while length < at_least and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            try:
                parts.append(self._decoder.decode(piece or b"", final=piece is None))
            except UnicodeDecodeError as error:
                raise self._error(f"it is no UTF-8 text: {error.reason}") from None
            length += len(parts[-1])
        self._buffer = "".join(parts)

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"no JSON object with lists, at letter {self._gone + self._place:,}: {reason}")
