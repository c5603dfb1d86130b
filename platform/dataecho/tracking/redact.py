"""Takes secrets out of settings, addresses and errors; :mod:`dataecho.masking` takes them out of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from dataecho.masking import MASK, is_secret_name, masked_arguments, masked_text, masked_user_info

#: Below these keys every text is taken for a secret: what a header is called tells nothing.
_SECRET_NODES = frozenset({"auth", "cookies", "headers"})


def masked(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every setting, by its dotted name, as text, secrets masked. None and the empty text say that no secret is set,
    and stay."""
    return {str(name): str(_masked(value, str(name).split("."))) for name, value in settings.items()}


def without_credentials(uri: str) -> str:
    """``uri`` of a server or database without user and password, which can still be opened by who has them: of its
    query only secrets are masked."""
    parts = urlsplit(uri)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri
    return masked_arguments(masked_user_info(plain))


def masked_error(error: BaseException, *, uri: str) -> str:
    """Kind and first line of ``error`` in at most 300 characters, without the credentials of ``uri``."""
    lines = str(error).strip().splitlines()
    text = masked_text(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
    # A driver may print the password alone, so it is looked for as well, as written and decoded.
    user_info = urlsplit(uri).netloc.rpartition("@")[0]
    password = user_info.partition(":")[2]
    for secret in sorted({user_info, password, unquote(password)} - {""}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text[:300]


def masked_nested(node: Any) -> Any:
    """A nested configuration with its secrets masked and every other value as it was."""
    return _masked(node, [])


def _masked(node: Any, names: list[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _masked(value, [*names, str(key)]) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_masked(value, names) for value in node]
    if node in (None, ""):
        return node
    is_text = isinstance(node, str)
    if (names and is_secret_name(names[-1])) or (is_text and not _SECRET_NODES.isdisjoint(names)):
        return MASK
    return masked_text(node) if is_text else node
