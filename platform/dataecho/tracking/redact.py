"""Takes secrets out of what is logged, printed or stored. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

MASK = "***"

# Whole words of a name's last dotted part: `num_tokens` and `monkey` are no secrets.
_SECRET_WORDS = frozenset({"password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "credentials"})
_SECRET_NAME = re.compile(r"^(.*_)?(api|access|account|auth|encryption|private|secret|signing)_?key$|^(key|auth)$")
# A match begins where a word begins: else a long word without a match takes time with the square of its length.
_USER_INFO = re.compile(r"(?<![\w+.-])(?P<scheme>[\w+.-]+://)[^\s/?#@]*(?:@[^\s/?#@]*)*@")
_ARGUMENT = re.compile(r"(?<![\w.-])(?P<name>[\w.-]+)=(?P<value>[^\s&#;,'\"]+)")


def is_secret_name(name: str) -> bool:
    """Whether a dotted setting's last part says that its value is a secret."""
    last = name.rsplit(".", 1)[-1].lower().replace("-", "_")
    return bool(_SECRET_WORDS.intersection(last.split("_"))) or bool(_SECRET_NAME.match(last))


def masked_text(text: str) -> str:
    """``text`` with the user and password of every URL in it, and every ``name=value`` whose name is secret, masked."""
    text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
    return _ARGUMENT.sub(lambda found: f"{found['name']}={MASK}" if is_secret_name(found["name"]) else found[0], text)


def masked(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every setting as text, secrets masked. None and the empty text say that no secret is set, and stay."""
    return {
        str(name): MASK if is_secret_name(str(name)) and value not in (None, "") else masked_text(str(value))
        for name, value in settings.items()
    }


def without_credentials(uri: str) -> str:
    """``uri`` without user and password, which can still be opened by who has them."""
    parts = urlsplit(uri)
    return masked_text(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else uri)


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


def masked_nested(node: Any, *, name: str = "") -> Any:
    """A nested configuration with its secrets masked and every other value as it was."""
    if isinstance(node, Mapping):
        return {key: masked_nested(value, name=str(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [masked_nested(value, name=name) for value in node]
    if node in (None, ""):
        return node
    if is_secret_name(name):
        return MASK
    return masked_text(node) if isinstance(node, str) else node
