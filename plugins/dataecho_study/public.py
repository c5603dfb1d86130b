"""Takes from text what a report must not tell: paths of a machine, addresses, user and host names, secrets."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import re
import socket
from collections.abc import Mapping
from typing import Any, TypeVar

from dataecho.masking import masked_text

_ADDRESS = re.compile(r"(?<![\w+.-])[\w+.-]+://[^\s'\",\])}]*")
# From a slash, a tilde or a drive to the next space, quote or bracket. A slash inside a word is no beginning: 3/4, a/b.
_PATH = re.compile(r"(?<![\w./-])(?:~[\w.-]*/|/(?=\w)|[A-Za-z]:[\\/])[^\s'\",;\])}]*")
_SHORTEST = 3  # a user or host name of one or two letters is part of many words
T = TypeVar("T")


def public(value: T) -> T:
    """``value`` with every text in it cleaned: records, mappings and lists are rebuilt."""
    return _cleaned(value, _names())


def _cleaned(value: Any, names: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        text = _PATH.sub("<path>", _ADDRESS.sub("<address>", masked_text(value)))
        return names.sub("<name>", text) if names else text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value,
            **{field.name: _cleaned(getattr(value, field.name), names) for field in dataclasses.fields(value)},
        )
    if isinstance(value, Mapping):
        return {key: _cleaned(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cleaned(item, names) for item in value)
    return value


def _names() -> re.Pattern[str] | None:
    """The names of this machine and its user, as whole words."""
    found = [socket.gethostname(), socket.gethostname().partition(".")[0]]
    with contextlib.suppress(OSError, KeyError):  # a user without a name, as in some containers
        found.append(getpass.getuser())
    words = sorted({name for name in found if len(name) >= _SHORTEST and name not in _COMMON}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)") if words else None


#: Names of users and hosts that say nothing, and are words of a report.
_COMMON = frozenset({"root", "user", "localhost", "batch", "study", "digits", "none", "torch", "main", "train", "echo"})
