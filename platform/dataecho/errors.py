"""Errors that tell a user what to do. Standard library only: every layer may import this."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from dataecho.masking import MASK, is_secret_name, masked_text

#: Text that Hydra's grammar reads as text without quotes.
_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.+@:-]*")
_OTHER_TYPES = ("null", "true", "false", "inf", "nan")


class SettingError(ValueError):
    """A setting that cannot be used: names the key, the value given, what is allowed, and the cure. Secrets are
    masked. A ``ValueError``.

        >>> import numpy as np
        >>> from dataecho import ArraySource, SettingError
        >>> try:
        ...     ArraySource({"image": np.zeros((3, 2)), "label": np.zeros(4)})
        ... except SettingError as error:
        ...     print(error.key, error.value)
        fields {'image': 3, 'label': 4}
    """

    def __init__(self, key: str, value: Any, *, allowed: str, cure: str) -> None:
        self.key = key
        self.value = value
        given = MASK if is_secret_name(key) and value not in (None, "") else shown(value)
        super().__init__(masked_text(f"{key}={given} cannot be used. Allowed: {allowed}. {cure}", telling=True))


class DataError(RuntimeError):
    """Data that cannot be read: a shard that is missing, truncated or was changed, a server that refuses. Names the
    place, the problem and the cure. Secrets are masked. A ``RuntimeError``.

        >>> from dataecho import DataError, ManifestSource
        >>> try:
        ...     ManifestSource("nowhere.csv")
        ... except DataError as error:
        ...     print("nowhere.csv" in str(error))
        True
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(masked_text(text, telling=True))


def require(condition: bool, key: str, value: Any, *, allowed: str, cure: str) -> None:
    """Raise :class:`SettingError` unless ``condition`` holds."""
    if not condition:
        raise SettingError(key, value, allowed=allowed, cure=cure)


def require_same(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, cure: str) -> None:
    """Raise :class:`SettingError` for the first key, in the order of names, whose value differs between this run and
    the checkpoint that it resumes from. A key that only one of them has is None in the other."""
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            allowed = f"{shown(theirs.get(key))}, the value the checkpoint was written with"
            raise SettingError(key, mine.get(key), allowed=allowed, cure=cure)


def refuse_unknown(given: Iterable[str], known: Iterable[str], *, prefix: str = "", values: Any = None) -> None:
    """Refuse the first of ``given`` that is not ``known``, and suggest the nearest known key."""
    known = sorted(known)
    for key in given:
        if key in known:
            continue
        nearest = difflib.get_close_matches(str(key), known, n=1)
        cure = f"Did you mean {prefix}{nearest[0]}?" if nearest else "Remove it."
        value = values[key] if values is not None else "..."
        raise SettingError(f"{prefix}{key}", value, allowed=f"the keys {', '.join(known) or '(none)'}", cure=cure)


def shown(value: Any) -> str:
    """A value as a user would type it."""
    if isinstance(value, float) and value.is_integer():
        return f"{value:g}"  # 4, as it was typed, not 4.0
    return value if isinstance(value, str) else repr(value)


def setting(key: str, value: object) -> str:
    """``key=value`` for a shell, quoted for Hydra and for the shell where they need it."""
    return shlex.quote(f"{key}={quoted(str(value))}")


def quoted(text: str) -> str:
    """``text`` as a value that Hydra reads back as this text: in quotes if it has ``=``, a comma, brackets, a space
    or a character beyond ASCII, or looks like a number."""
    if _PLAIN.fullmatch(text) and text.lower() not in _OTHER_TYPES and not _is_number(text):
        return text
    text = text.replace("${", "\\${")  # otherwise an interpolation
    # Only quotes, and backslashes before them, need escaping.
    return "'" + re.sub(r"(\\*)(?='|$)", lambda found: found[1] * 2, text).replace("'", "\\'") + "'"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
