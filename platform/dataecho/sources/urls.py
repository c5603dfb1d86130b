"""What can be said of a URL without opening it: how it is shown, what it is called, which URLs a pattern stands for."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

_SCHEME = re.compile(r"^(?P<scheme>[A-Za-z][\w+.-]*)://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")


def protocol(url: str) -> str:
    """``file`` for a local path, else what stands before ``://``, in small letters."""
    found = _SCHEME.match(url)
    return found["scheme"].lower() if found else "file"


def is_local(url: str) -> bool:
    """Whether this is a path of this machine."""
    return protocol(url) in ("file", "local")


def local_path(url: str) -> str:
    """The absolute path of a local URL."""
    return os.path.abspath(os.path.expanduser(_SCHEME.sub("", url)))


def is_http(url: str) -> bool:
    """Whether this is asked for by HTTP."""
    return protocol(url) in ("http", "https")


def shown_url(url: str) -> str:
    """``url`` as it may be printed: without user, password, query and fragment, where secrets stand."""
    if is_local(url):
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def without_secrets(text: str, url: str) -> str:
    """``text``, which speaks of ``url``, without the secrets of ``url``, as written and decoded."""
    if is_local(url):
        return text
    parts = urlsplit(url)
    user_info = parts.netloc.rpartition("@")[0]
    secrets = {user_info, user_info.partition(":")[2], parts.query, parts.fragment}
    secrets |= {value.partition("=")[2] for value in parts.query.split("&")}
    secrets |= {unquote(secret) for secret in secrets}
    text = text.replace(url, shown_url(url))
    for secret in sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def names_of(urls: Sequence[str]) -> list[str]:
    """What the files of one source are called: their paths below the folder that all share, without host and query.
    The same for a copy elsewhere. Where that would give two files one name, the query stays, for it tells them
    apart."""
    paths = [local_path(url) if is_local(url) else unquote(urlsplit(url).path) for url in urls]
    folder = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    names = [posixpath.relpath(path, folder or ".") for path in paths]
    if len(set(names)) == len(names):
        return names
    return [
        f"{name}?{urlsplit(url).query}" if not is_local(url) else name for name, url in zip(names, urls, strict=True)
    ]


def expanded(pattern: str) -> list[str]:
    """``pattern`` with its braces written out: ``{0000..0099}`` counts, with as many digits; ``{a,b}`` lists."""
    return list(_expanded(pattern))


def _expanded(pattern: str) -> Iterator[str]:
    pieces = _BRACES.split(pattern)  # text, braces, text, braces, ..., text
    choices = [_choices(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    counted = _RANGE.match(inside)
    if counted is None:
        return inside.split(",")
    first, last = counted.groups()
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def is_pattern(url: str) -> bool:
    """Whether ``url`` stands for whatever matches it. A question mark begins the query of an HTTP URL."""
    return any(character in url for character in ("*[" if is_http(url) else "*?["))
