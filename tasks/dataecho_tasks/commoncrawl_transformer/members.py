"""The members of a compressed WARC file: each is one record, or a few, and can be read alone."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from warcio.recordloader import ArcWarcRecordLoader

from dataecho.errors import DataError

_BLOCK = 2**16
_GZIP = 31  # zlib's name for its format with header and checksum


class Record(NamedTuple):
    """``kind``: conversion for a page's text; ``language``: the first that was found in it, empty where none is told;
    ``lines``: of the text, without white space around them."""

    kind: str
    language: str
    lines: list[bytes]


def members(path: str | Path, where: str) -> Iterator[tuple[int, int, bytes]]:
    """(offset, size, content) of every member. Raises :class:`DataError`, with the name ``where``, for a file that is
    empty, not compressed, damaged or cut short."""
    with open(path, "rb") as file:
        rest, offset = file.read(_BLOCK), 0
        if not rest:
            raise DataError(f"{where} is empty. Bring it there again.")
        if not rest.startswith(b"\x1f\x8b"):
            raise DataError(
                f"{where} is not compressed by gzip, as .warc.wet.gz files are. Check that it is the right one."
            )
        while rest:
            inflater = zlib.decompressobj(_GZIP)
            pieces, size = [], 0
            while not inflater.eof:
                if not rest:
                    raise DataError(
                        f"{where} is cut short: the record at byte {offset} has no end. Bring the whole file "
                        "there again."
                    )
                try:
                    pieces.append(inflater.decompress(rest))
                except zlib.error as error:
                    raise DataError(f"{where} is damaged at byte {offset}: {error}. Bring it there again.") from None
                size += len(rest) - len(inflater.unused_data)
                rest = inflater.unused_data if inflater.eof else file.read(_BLOCK)
            yield offset, size, b"".join(pieces)
            offset += size
            rest = rest or file.read(_BLOCK)


def inflated(data: bytes) -> bytes:
    """The content of one member. Raises ``ValueError``."""
    try:
        return zlib.decompress(data, _GZIP)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from None


def records(content: bytes) -> Iterator[Record]:
    """The records of one member, in order. Raises ``ValueError`` for what is none, has no length, or is shorter than it
    says."""
    stream = io.BytesIO(content)
    start = 0
    while True:
        place = f", in the member's byte {start}" if start else ""
        try:
            # Without looking into the text of the record, which may be an answer of a server or anything else.
            record = ArcWarcRecordLoader().parse_record_stream(stream, known_format="warc", no_record_parse=True)
        except Exception as error:  # warcio has no common base of its errors
            raise ValueError(f"no WARC record: {type(error).__name__}: {error}{place}") from None
        announced = record.rec_headers.get_header("Content-Length")
        if announced is None or not announced.strip().isdecimal():
            raise ValueError(f"no WARC record: its Content-Length is {announced}, no number of bytes{place}")
        text = record.raw_stream.read()
        if len(text) != int(announced):
            raise ValueError(f"{announced} bytes of text were announced, {len(text)} are there{place}")
        languages = record.rec_headers.get_header("WARC-Identified-Content-Language") or ""
        lines = [line.strip() for line in text.split(b"\n")]
        yield Record(record.rec_type, languages.partition(",")[0].strip(), lines)
        start = stream.tell()
        while content[start : start + 1] in (b"\r", b"\n"):  # two empty lines end a record
            start += 1
        if start == len(content):
            return
        stream.seek(start)
