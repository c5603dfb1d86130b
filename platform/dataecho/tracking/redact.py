"""Removes secrets from parameters, addresses and errors, with :mod:`dataecho.masking`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from dataecho.masking import MASK, masked_arguments, masked_nested, masked_text, masked_user_info


def masked(settings: Mapping[str, Any]) -> dict[str, str]:
    """All settings as text, by dotted name, with masked secrets. None and empty text stay: they show that no secret is
    set."""
    return {str(name): str(masked_nested(value, name=str(name))) for name, value in settings.items()}


def without_credentials(uri: str) -> str:
    """``uri`` of a server or database without user and password, and with masked secrets in its query. With the
    credentials it can still be opened."""
    parts = urlsplit(uri)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri
    return masked_arguments(masked_user_info(plain))


def masked_error(error: BaseException, *, uri: str) -> str:
    """Kind and first line of ``error`` in at most 300 characters, without the credentials of ``uri``."""
    lines = str(error).strip().splitlines()
    text = masked_text(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
    # A driver may print the password alone, in quoted or decoded form.
    user_info = urlsplit(uri).netloc.rpartition("@")[0]
    password = user_info.partition(":")[2]
    for secret in sorted({user_info, password, unquote(password)} - {""}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text[:300]
