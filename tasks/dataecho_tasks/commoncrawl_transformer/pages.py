"""Common Crawl's WET files: the text of web pages, chosen, cleaned of repeated lines, and packed into rows."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataecho.errors import DataError, require
from dataecho.pipeline.stage import Broken
from dataecho.sources.options import ShardOptions, takes
from dataecho.sources.remote import Remote
from dataecho.sources.shard_file import ShardFile
from dataecho.sources.urls import shown_url
from dataecho_tasks.commoncrawl_transformer.members import Record, inflated, members, records
from dataecho_tasks.shared.text.packing import Tables, smallest
from dataecho_tasks.shared.text.source import TextSource

WHERE_TO_GET = (
    "Every crawl lists its files in https://data.commoncrawl.org/crawl-data/<crawl>/wet.paths.gz; a file has about "
    "100 MB."
)

#: Where the paths of a published list lie.
ROOT = "https://data.commoncrawl.org/"

_LISTS = (".paths", ".paths.gz")
_FORMAT = 2  # of what is made of a file: another number where the same files become other rows
_MAX_SHARED = 2**24  # bytes of a member of several records: all of it is inflated for a row
_CRAWLED = {
    "request": ("WARC", ".warc.gz"),
    "response": ("WARC", ".warc.gz"),
    "metadata": ("WAT", ".warc.wat.gz"),
    "revisit": ("WARC", ".warc.gz"),
    "resource": ("WARC", ".warc.gz"),
}


class PageSource(TextSource):
    """``*.warc.wet.gz`` files, one shard each. Of their records those are taken that are the text of a page, whose
    first language is ``language`` (ISO-639-3; None: any), and whose lines of ``min_line_length`` bytes and more have
    ``min_page_length`` to ``max_page_length`` bytes together. Of these lines those are taken that did not come before
    in the same shard.

    ``urls`` may be a published list of files, ``wet.paths`` or ``wet.paths.gz``, here or behind a URL: then its paths
    are taken below ``root`` (None: https://data.commoncrawl.org/), ``num_files`` of them (None: all) from the number
    ``first_file`` on (None: 0).

    A file that is empty, cut short, damaged, or has no such page is a :class:`DataError`. A row with text that is not
    UTF-8 fails alone, when it is tokenized.
    """

    @takes(ShardOptions)
    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        tokenizer: Any,
        sequence_length: int,
        language: str | None = "eng",
        min_line_length: int = 30,
        min_page_length: int = 200,
        max_page_length: int = 100_000,
        root: str | None = None,
        first_file: int | None = None,
        num_files: int | None = None,
        **options: Any,
    ) -> None:
        require(
            min_line_length >= 1, "min_line_length", min_line_length, allowed="whole numbers >= 1", cure="30 is usual."
        )
        require(
            0 <= min_page_length <= max_page_length,
            "min_page_length",
            min_page_length,
            allowed=f"0 to max_page_length={max_page_length}",
            cure="200 is the default.",
        )
        self._language, self._min_line = language, min_line_length
        self._page_lengths = (min_page_length, max_page_length)
        shard_options = ShardOptions(**options)
        super().__init__(
            _listed(urls, root=root, first=first_file, number=num_files, remote=Remote(shard_options)),
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            settings={
                "format": _FORMAT,
                "language": language,
                "min_line_length": min_line_length,
                "min_page_length": min_page_length,
                "max_page_length": max_page_length,
            },
            tables=("offset", "size", "record", "page", "line", "first", "last", "skip"),
            where_to_get=WHERE_TO_GET,
            options=shard_options,
        )

    def lines(self, shard: int) -> Iterator[bytes]:
        stat, index = self._index(shard)
        file = self._file(shard, stat)
        for page in range(len(index["offset"])):
            lines = self._page(index, file, page)
            yield from (lines[number] for number in index["line"][index["page"] == page])

    def _scanned(self, path: str | Path, where: str) -> Tables:
        places: list[tuple[int, int, int]] = []
        pages: list[int] = []
        numbers: list[int] = []
        lengths = []
        seen: set[bytes] = set()
        kinds: set[str] = set()
        for offset, size, content in members(path, where):
            for position, record in enumerate(_records(content, offset, where)):
                if "conversion" not in kinds:
                    _refuse_crawled(record, where)  # before the rest of a large file is read
                kinds.add(record.kind)
                if record.kind != "conversion" or self._language not in (None, record.language):
                    continue
                fresh = self._chosen(record.lines, seen)
                if fresh:
                    pages += [len(places)] * len(fresh)
                    places.append((offset, size, position))
                    numbers += fresh
                    lengths.append(self.tokenizer.lengths([record.lines[number] for number in fresh]))
        if not places:
            raise DataError(f"{where} {self._why_empty(kinds)}")
        table = np.array(places)
        return {
            "offset": smallest(table[:, 0]),
            "size": smallest(table[:, 1]),
            "record": smallest(table[:, 2]),
            "page": smallest(pages),
            "line": smallest(numbers),
            **self._packed(np.concatenate(lengths), where),
        }

    def _chosen(self, lines: Sequence[bytes], seen: set[bytes]) -> list[int]:
        """Numbers of the lines to take; ``seen`` gets their digests."""
        long = [number for number, line in enumerate(lines) if len(line) >= self._min_line]
        least, most = self._page_lengths
        if not least <= sum(len(lines[number]) for number in long) <= most:
            return []
        fresh = []
        for number in long:
            digest = hashlib.blake2b(lines[number], digest_size=8).digest()
            if digest not in seen:
                seen.add(digest)
                fresh.append(number)
        return fresh

    def _why_empty(self, kinds: set[str]) -> str:
        if "conversion" not in kinds:
            return (
                f"has no text of pages, but records of the kind {', '.join(sorted(kinds))}. Take the .warc.wet.gz "
                f"files, not .warc.gz or .warc.wat.gz. {WHERE_TO_GET}"
            )
        least, most = self._page_lengths
        return (
            f"has no page with language={self._language} and {least} to {most} bytes in lines of {self._min_line} and "
            "more. Set language, min_page_length, max_page_length or min_line_length otherwise."
        )

    def _text(self, index: Tables, file: ShardFile, k: int) -> bytes | Broken:
        first, last = int(index["first"][k]), int(index["last"][k])
        pages, numbers = index["page"][first : last + 1], index["line"][first : last + 1]
        text = b""
        try:
            for page in np.unique(pages).tolist():
                lines = self._page(index, file, page)
                text += b"".join(lines[number] + b"\n" for number in numbers[pages == page])
        except (ValueError, IndexError, StopIteration) as error:
            return Broken(f"{type(error).__name__}: {error}")
        return text

    def _page(self, index: Tables, file: ShardFile, page: int) -> list[bytes]:
        content = inflated(file.read_at(int(index["offset"][page]), int(index["size"][page])))
        return next(itertools.islice(records(content), int(index["record"][page]), None)).lines


def _records(content: bytes, offset: int, where: str) -> Iterator[Record]:
    """Those of one member."""
    try:
        for position, record in enumerate(records(content)):
            if position and len(content) > _MAX_SHARED:
                raise DataError(
                    f"{where} has many records in one piece of {len(content):,} bytes, at byte {offset}, so that no "
                    "page can be read alone. Compress every record for itself, as Common Crawl does: warcio recompress "
                    "OLD NEW, or get the published file."
                )
            yield record
    except ValueError as error:
        raise DataError(f"{where}: {error}, at byte {offset}. Bring the whole file there again.") from None


def _refuse_crawled(record: Record, where: str) -> None:
    """Of the files of a crawl only those with the text of pages are meant."""
    if record.kind in _CRAWLED:
        kind, ending = _CRAWLED[record.kind]
        raise DataError(
            f"{where} is a {kind} file ({ending}): its first record has the kind {record.kind}. Take the .warc.wet.gz "
            f"files, which have the text of the pages. {WHERE_TO_GET}"
        )


def _listed(
    urls: str | Sequence[str], *, root: str | None, first: int | None, number: int | None, remote: Remote
) -> str | Sequence[str]:
    """``urls``, or the files of the list that it is."""
    is_list = isinstance(urls, str) and urls.partition("?")[0].endswith(_LISTS)
    for name, value in (("root", root), ("first_file", first), ("num_files", number)):
        require(
            is_list or value is None,
            name,
            value,
            allowed="null, unless urls is a list of files (wet.paths or wet.paths.gz)",
            cure="Set it to null, or give urls=.../wet.paths.gz.",
        )
    if not isinstance(urls, str) or not is_list:
        return urls
    where = shown_url(urls)
    paths = _paths(remote.read(urls), where)
    start = first or 0
    require(
        0 <= start < len(paths), "first_file", first, allowed=f"0 to {len(paths) - 1}, the files in {where}", cure="0."
    )
    require(
        number is None or 1 <= number <= len(paths) - start,
        "num_files",
        number,
        allowed=f"null (all) or 1 to {len(paths) - start}, the files in {where} from first_file on",
        cure="A few hundred are enough for the budget.",
    )
    folder = (ROOT if root is None else root).rstrip("/")
    return [f"{folder}/{path}" for path in paths[start:][:number]]


def _paths(data: bytes, where: str) -> list[str]:
    try:
        text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        paths = text.decode().split()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{where} is no list of files: {error}. Bring it there again. {WHERE_TO_GET}") from None
    strange = [path for path in paths if not path.endswith(".wet.gz") or path.startswith("/") or ".." in path]
    if strange or not paths:
        raise DataError(
            f"{where} is no list of WET files: "
            + (f"{strange[0][:80]!r} is in it. " if strange else "it is empty. ")
            + f"Take wet.paths.gz, not warc.paths.gz or wat.paths.gz. {WHERE_TO_GET}"
        )
    return paths
