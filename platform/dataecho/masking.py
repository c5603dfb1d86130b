"""Masks secrets in text that is logged, printed or stored. Standard library only: every layer may import this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

#: Every text below these keys counts as a secret: the name of a header does not tell whether it is one.
_SECRET_NODES = frozenset({"auth", "cookies", "headers"})

# Whole words of a name's last dotted part: `num_tokens` and `monkey` are no secrets.
_SECRET_WORDS = frozenset(
    [
        "authorization",
        "bearer",
        "cookie",
        "credential",
        "credentials",
        "jwt",
        "passphrase",
        "passwd",
        "password",
        "pwd",
        "sas",
        "secret",
        "sig",
        "signature",
        "token",
    ]
)
_SECRET_NAME = re.compile(
    r"^(.*_)?(api|access|account|auth|encryption|private|secret|signing)_?key(_?id)?$|^(key|auth)$|^(.*)password$"
)
# Parameters of a query that identify a file.
_TELLING_NAMES = frozenset({"blob", "file", "filename", "index", "name", "number", "object", "part", "path", "shard"})
_PLAIN = re.compile(r"^[\w./ %+{}-]{1,200}$")
_ENDINGS = tuple(
    [
        ".arrow",
        ".bin",
        ".bmp",
        ".bz2",
        ".csv",
        ".gz",
        ".jpeg",
        ".jpg",
        ".json",
        ".jsonl",
        ".npy",
        ".npz",
        ".parquet",
        ".png",
        ".tar",
        ".tfrecord",
        ".tgz",
        ".txt",
        ".warc",
        ".wet",
        ".webp",
        ".xz",
        ".zip",
        ".zst",
    ]
)

# A match begins where a word begins: otherwise a long word without a match takes quadratic time.
_USER_INFO = re.compile(r"(?<![\w+.-])(?P<scheme>[\w+.-]+://)[^\s/?#@]*(?:@[^\s/?#@]*)*@")
_ARGUMENT = re.compile(r"(?<![\w.-])(?P<name>[\w.-]+)=(?P<value>[^\s&#;,'\"]+)")
# A query or a fragment ends at white space, at a quotation mark, or where a list continues with the next URL.
_URL = re.compile(
    r"(?<![\w+.-])(?P<before>[\w+.-]+://[^\s?#'\"]*)(?P<query>[?#](?:(?!,\s*[\w+.-]{1,20}://)[^\s'\"])*)?"
)
_PUNCTUATION = ":.,;)]"
_PIECE = re.compile(r"(?P<mark>[?&#])(?P<piece>[^?&#]*)")


def is_secret_name(name: str) -> bool:
    """Whether a dotted setting's last part says that its value is a secret."""
    last = name.rsplit(".", 1)[-1].lower().replace("-", "_")
    return bool(_SECRET_WORDS.intersection(last.split("_"))) or bool(_SECRET_NAME.match(last))


def is_telling(name: str, value: str) -> bool:
    """Whether a query's parameter identifies a file and is no secret: its name is known to, or its value looks like a
    file name."""
    if is_secret_name(name):
        return False
    return bool(_PLAIN.match(value)) and (name.lower() in _TELLING_NAMES or value.lower().endswith(_ENDINGS))


def masked_text(text: str, *, telling: bool = False) -> str:
    """``text`` with the user and password of every URL in it, every value of its query, and every ``name=value`` whose
    name is secret, masked. ``telling``: parameters that identify a file stay, see :func:`is_telling`."""
    text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _URL.sub(lambda found: found["before"] + _masked_query(found["query"] or "", telling=telling), text)
    return masked_arguments(text)


def masked_arguments(text: str) -> str:
    """``text`` with every ``name=value`` whose name is secret masked."""
    return _ARGUMENT.sub(
        lambda found: (
            f"{found['name']}={MASK}"
            if is_secret_name(found["name"]) and not found["value"].startswith(MASK)
            else found[0]
        ),
        text,
    )


def masked_user_info(text: str) -> str:
    """``text`` with the user and password of every URL in it masked."""
    return _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)


def masked_nested(node: Any, *, name: str = "") -> Any:
    """A configuration, or the part of it below the dotted ``name``, with its secrets masked and every other value as it
    was."""
    return _masked(node, name.split("."))


def _masked(node: Any, names: list[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _masked(value, [*names, str(key)]) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_masked(value, names) for value in node]
    if node in (None, ""):
        return node
    is_text = isinstance(node, str)
    if is_secret_name(names[-1]) or (is_text and not _SECRET_NODES.isdisjoint(names)):
        return MASK
    return masked_text(node) if is_text else node


def _masked_query(query: str, *, telling: bool) -> str:
    """``?a=1&b=2#c`` with its values masked; a query without names is masked whole, a fragment without them stays."""

    def masked_piece(found: re.Match[str]) -> str:
        mark, piece = found["mark"], found["piece"].rstrip(_PUNCTUATION)
        end = found["piece"][len(piece) :]
        name, equals, value = piece.partition("=")
        if equals:
            shown = not value or (telling and is_telling(name, value))
            return found[0] if shown else f"{mark}{name}={MASK}{end}"
        return found[0] if mark == "#" or not piece else f"{mark}{MASK}{end}"

    return _PIECE.sub(masked_piece, query)
