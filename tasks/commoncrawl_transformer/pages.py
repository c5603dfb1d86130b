"""Common Crawl's WET files: the text of web pages, chosen, cleaned of repeated lines, and packed into rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataecho.errors import DataError, require
from dataecho.pipeline.stage import Broken
from dataecho.sources.shard_file import ShardFile
from tasks.commoncrawl_transformer.members import inflated, members, parsed
from tasks.text.packing import Tables, smallest
from tasks.text.source import TextSource

WHERE_TO_GET = (
    "Every crawl lists its files in https://data.commoncrawl.org/crawl-data/<crawl>/wet.paths.gz; a file has about "
    "100 MB."
)


class PageSource(TextSource):
    """``*.warc.wet.gz`` files, one shard each. Of their records those are taken that are the text of a page, whose
    first language is ``language`` (ISO-639-3; None: any), and whose lines of ``min_line_length`` bytes and more have
    ``min_page_length`` to ``max_page_length`` bytes together. Of these lines those are taken that did not come before
    in the same shard.

    A file that is empty, cut short, damaged, or has no such page is a :class:`DataError`. A row with text that is not
    UTF-8 fails alone, when it is tokenized.
    """

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
        cache_dir: str | None = None,
        index_dir: str | None = None,
        max_local_bytes: int = 10_000_000_000,
        num_fetches: int = 4,
        num_readers: int = 8,
        storage_options: Mapping[str, Any] | None = None,
        num_retries: int = 5,
        first_delay: float = 0.5,
        timeout: float = 60.0,
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
        super().__init__(
            urls,
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            settings={
                "language": language,
                "min_line_length": min_line_length,
                "min_page_length": min_page_length,
                "max_page_length": max_page_length,
            },
            tables=("offset", "size", "page", "line", "first", "last", "skip"),
            where_to_get=WHERE_TO_GET,
            cache_dir=cache_dir,
            index_dir=index_dir,
            max_local_bytes=max_local_bytes,
            num_fetches=num_fetches,
            num_readers=num_readers,
            storage_options=storage_options,
            num_retries=num_retries,
            first_delay=first_delay,
            timeout=timeout,
        )

    def lines(self, shard: int) -> Iterator[bytes]:
        stat, index = self._index(shard)
        file = self._file(shard, stat)
        for page in range(len(index["offset"])):
            lines = self._page(index, file, page)
            yield from (lines[number] for number in index["line"][index["page"] == page])

    def _scanned(self, path: str | Path, where: str) -> Tables:
        places: list[tuple[int, int]] = []
        pages: list[int] = []
        numbers: list[int] = []
        lengths = []
        seen: set[bytes] = set()
        kinds: set[str] = set()
        for offset, size, content in members(path, where):
            try:
                record = parsed(content)
            except ValueError as error:
                raise DataError(f"{where}: {error}, at byte {offset}. Bring the whole file there again.") from None
            kinds.add(record.kind)
            if record.kind != "conversion" or self._language not in (None, record.language):
                continue
            fresh = self._chosen(record.lines, seen)
            if fresh:
                pages += [len(places)] * len(fresh)
                places.append((offset, size))
                numbers += fresh
                lengths.append(self.tokenizer.lengths([record.lines[number] for number in fresh]))
        if not places:
            raise DataError(f"{where} {self._why_empty(kinds)}")
        table = np.array(places)
        return {
            "offset": smallest(table[:, 0]),
            "size": smallest(table[:, 1]),
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
        except (ValueError, IndexError) as error:
            return Broken(f"{type(error).__name__}: {error}")
        return text

    def _page(self, index: Tables, file: ShardFile, page: int) -> list[bytes]:
        return parsed(inflated(file.read_at(int(index["offset"][page]), int(index["size"][page])))).lines
