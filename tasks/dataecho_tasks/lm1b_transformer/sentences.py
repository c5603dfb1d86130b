"""The One Billion Word Benchmark's shards: text files, one sentence a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataecho.errors import DataError, require
from dataecho.sources.options import ShardOptions, takes
from dataecho.sources.shard_file import ShardFile
from dataecho.sources.urls import is_local, local_path
from dataecho_tasks.shared.text.packing import Tables, smallest
from dataecho_tasks.shared.text.source import TextSource

#: As the corpus is published (Chelba et al. 2013). Shard 00000 of 100 is the held-out part, cut into 50.
NUM_SENTENCES = {"train": 30_301_028, "eval": 306_688}
WHERE_TO_GET = (
    "The corpus, 1-billion-word-language-modeling-benchmark-r13output.tar.gz (1.8 GB, 4.2 GB unpacked), is at "
    "http://www.statmt.org/lm-benchmark/."
)

#: Folder, name before the number, numbers, and how many files the corpus was cut into.
_SPLITS = {
    "train": ("training-monolingual.tokenized.shuffled", "news.en", range(1, 100), 100),
    "eval": ("heldout-monolingual.tokenized.shuffled", "news.en.heldout", range(50), 50),
}

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class SentenceSource(TextSource):
    """Text files with a sentence on every line, packed into rows; empty lines are passed over.

    A file that is empty, compressed, no text, or does not end with a newline is a
    :class:`DataError`. A row with text that is not UTF-8 fails alone, when it is tokenized.
    """

    @takes(ShardOptions)
    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        tokenizer: Any,
        sequence_length: int,
        **options: Any,
    ) -> None:
        super().__init__(
            urls,
            tokenizer=tokenizer,
            sequence_length=sequence_length,
            settings={},
            tables=("start", "end", "skip"),
            where_to_get=WHERE_TO_GET,
            options=ShardOptions(**options),
        )

    def lines(self, shard: int) -> Iterator[bytes]:
        data = self._remote.read(self._urls[shard])  # whole, and without an index, which counting does not need
        _refuse(data, self._names[shard])
        yield from (line for line in data.split(b"\n") if line)

    def _scanned(self, path: str | Path, where: str) -> Tables:
        data = Path(path).read_bytes()
        _refuse(data, where)
        lines = data.split(b"\n")[:-1]
        ends = np.cumsum([len(line) + 1 for line in lines])
        starts = ends - [len(line) + 1 for line in lines]
        lengths = np.zeros(len(lines), dtype=np.int64)
        filled = [number for number, line in enumerate(lines) if line]
        lengths[filled] = self.tokenizer.lengths([lines[number] for number in filled])
        rows = self._packed(lengths, where)
        return {"start": smallest(starts[rows["first"]]), "end": smallest(ends[rows["last"]]), "skip": rows["skip"]}

    def _text(self, index: Tables, file: ShardFile, k: int) -> bytes:
        start = int(index["start"][k])
        return file.read_at(start, int(index["end"][k]) - start)


def benchmark(
    *,
    folder: str,
    split: str,
    tokenizer: Any,
    sequence_length: int,
    num_shards: int | None = None,
    cache_dir: str | None = None,
    index_dir: str | None = None,
    max_local_bytes: int = 10_000_000_000,
    storage_options: Mapping[str, Any] | None = None,
) -> SentenceSource:
    """The published corpus in ``folder``, here or behind a URL; ``split`` is train (99 shards) or eval (50), of which
    the first ``num_shards`` are taken; None: all. Raises :class:`DataError` where one of them is not in a local folder;
    of a URL it shows when the shard is fetched."""
    require(split in _SPLITS, "split", split, allowed=", ".join(_SPLITS), cure="train is the larger part.")
    below, name, numbers, total = _SPLITS[split]
    require(
        num_shards is None or 1 <= num_shards <= len(numbers),
        "num_shards",
        num_shards,
        allowed=f"null (all) or 1 to {len(numbers)}",
        cure="Results with part of the corpus cannot be compared.",
    )
    urls = [f"{folder.rstrip('/')}/{below}/{name}-{number:05d}-of-{total:05d}" for number in numbers[:num_shards]]
    if is_local(folder):
        missing = [url for url in urls if not Path(local_path(url)).is_file()]
        if missing:
            raise DataError(
                f"{missing[0]} is not there, and {len(missing) - 1} more of {len(urls)} files are not. {WHERE_TO_GET} "
                f"Unpack it, and name the folder that has {below} in it."
            )
    return SentenceSource(
        urls,
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        cache_dir=cache_dir,
        index_dir=index_dir,
        max_local_bytes=max_local_bytes,
        storage_options=storage_options,
    )


def _refuse(data: bytes, where: str) -> None:
    if not data:
        raise DataError(f"{where} is empty. Bring it there again. {WHERE_TO_GET}")
    if data.startswith(_COMPRESSED):
        raise DataError(f"{where} is compressed, so that no row can be read alone. Unpack it.")
    if b"\0" in data:
        raise DataError(f"{where} is no text: it has bytes of zero. Check that it is the right file. {WHERE_TO_GET}")
    if not data.endswith(b"\n"):
        raise DataError(
            f"{where} is cut short: its last line, at byte {len(data)}, has no end. Bring the whole file there again."
        )
