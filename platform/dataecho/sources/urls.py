"""URLs, without opening them: how one is shown, what it is called, which URLs a pattern stands for."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

from dataecho.masking import MASK, is_telling, masked_text

_SCHEME = re.compile(r"^(?P<scheme>[A-Za-z][\w+.-]*)://")
_BRACES = re.compile(r"\{([^{}]*)\}")
# Parameters of a query that a signature brings: of Amazon, Google, CloudFront, and Azure's shared access signatures.
_SIGNED = re.compile(
    r"^(x-(amz|goog)-(algorithm|content-sha256|credential|date|expires|security-token|signature|signedheaders)"
    r"|awsaccesskeyid|googleaccessid|expires|signature|policy|key-pair-id"
    r"|sig|s[etvprk]|spr|sip|sdd|ske|skoid|sks|skt|sktid|skv|srt|ss)=",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(r"^(x-(amz|goog)-signature|signature|sig)=", re.IGNORECASE)
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
    """``url`` as it may be printed and stored: without user, password and fragment, and of its query only what says
    which file is meant (:func:`dataecho.masking.is_telling`)."""
    if is_local(url):
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=_host(parts.netloc), query=_telling(parts.query), fragment=""))


def without_secrets(text: str, url: str) -> str:
    """``text``, which speaks of ``url``, without the secrets of ``url``, as written and decoded, and without those of
    any other URL in it (where a server led on to, for instance)."""
    if is_local(url):
        return masked_text(text, telling=True)
    parts = urlsplit(url)
    user_info = parts.netloc.rpartition("@")[0]
    told = _telling(parts.query).split("&")
    secrets = {user_info, user_info.partition(":")[2], parts.fragment}
    secrets |= {value.partition("=")[2] or value for value in parts.query.split("&") if value not in told}
    secrets |= {unquote(secret) for secret in secrets}
    text = text.replace(url, shown_url(url))
    for secret in sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return masked_text(text, telling=True)


def without_signature(url: str) -> str:
    """``url`` without what changes when it is signed anew, and without user and password: what it leads to."""
    if is_local(url):
        return url
    parts = urlsplit(url)
    pieces = parts.query.split("&")
    if any(_SIGNATURE.match(piece) for piece in pieces):
        pieces = [piece for piece in pieces if not _SIGNED.match(piece)]
    return urlunsplit(parts._replace(netloc=_host(parts.netloc), query="&".join(pieces), fragment=""))


def in_order(urls: Iterable[str]) -> list[str]:
    """``urls`` sorted by what may be printed of them; those that are alike in it as they come. New credentials in them
    change no order."""
    return sorted(urls, key=shown_url)


def names_of(urls: Sequence[str]) -> list[str]:
    """The names of the files of one source: their paths below the folder that all share, without host and query.
    The same for a copy elsewhere, and with new credentials. Files of the same path are told apart by what of their
    queries is no secret, and by their place in the list."""
    paths = [local_path(url) if is_local(url) else unquote(urlsplit(url).path) for url in urls]
    folder = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    names = [posixpath.relpath(path, folder or ".") for path in paths]
    if len(set(names)) == len(names):
        return names
    num_each, named = Counter(names), []
    for place, (name, url) in enumerate(zip(names, urls, strict=True), start=1):
        told = "" if is_local(url) else _telling(urlsplit(url).query)
        shown = f"{name}?{told}" if told else name
        named.append(f"{shown} ({place} of {len(urls)})" if num_each[name] > 1 else name)
    return named


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _telling(query: str) -> str:
    """The part of a query that may be printed."""
    pieces = (piece.partition("=") for piece in query.split("&"))
    return "&".join(f"{name}={value}" for name, _, value in pieces if value and is_telling(name, unquote(value)))


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
