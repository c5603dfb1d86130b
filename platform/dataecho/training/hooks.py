"""When hooks are due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from dataecho.errors import require
from dataecho.training.contracts import HookInfo

Unit = Literal["steps", "marks"]


class Hooks:
    """Functions to be called after every so many steps, or marks, of the whole run: a resumed run counts on."""

    def __init__(self) -> None:
        self._entries: list[tuple[Callable[[HookInfo], None], int, Unit]] = []

    def add(self, function: Callable[[HookInfo], None], *, every: int, of: Unit) -> None:
        """Raises :class:`SettingError` for an ``every`` below 1 and an unknown unit."""
        require(every >= 1, "hooks.every", every, allowed="whole numbers >= 1", cure="1 calls it every time.")
        require(of in get_args(Unit), "hooks.of", of, allowed=", ".join(get_args(Unit)), cure="Use of=marks.")
        self._entries.append((function, every, of))

    def due(self, number: int, *, of: Unit) -> list[Callable[[HookInfo], None]]:
        """Those to be called after the step or mark ``number``, counted from 1; cheap."""
        return [function for function, every, unit in self._entries if unit == of and number % every == 0]
