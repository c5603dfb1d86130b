"""The base of sources of packed text, in which one example is one row of tokens."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError, require
from dataecho.pipeline.stage import Broken, Example
from dataecho.sources.index_store import index_folder
from dataecho.sources.options import ShardOptions
from dataecho.sources.remote import MissingFile
from dataecho.sources.shard_file import ShardFile
from dataecho.sources.shards import ShardSource
from dataecho_tasks.shared.text.packing import Tables, pack, smallest, tables_as_json, tables_from_json
from dataecho_tasks.shared.text.tokenizer import Tokenizer


class TextSource(ShardSource[Tables]):
    """Records ``text``, whole lines as bytes, and ``skip``: the row is the ``sequence_length`` + 1 tokens after the
    first ``skip`` of that text, see :func:`tokenized`.

    A shard's lines are chosen, tokenized and packed when its index is made: rows know where their lines are. The index
    is kept in ``index_dir``, by default below ``cache_dir`` or the user's cache folder, for local shards too, under a
    name that tells tokenizer and settings. Rows never go from shard to shard; an end too short for a row is left out.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        tokenizer: Any,
        sequence_length: int,
        settings: Mapping[str, Any],
        tables: Sequence[str],
        where_to_get: str,
        options: ShardOptions,
    ) -> None:
        require(
            isinstance(tokenizer, Tokenizer),
            "tokenizer",
            type(tokenizer).__name__,
            allowed="a node with a _target_ that gives a tokenizer",
            cure="For instance {_target_: dataecho_tasks.shared.text.tokenizer.ByteTokenizer}.",
        )
        require(
            sequence_length >= 1, "sequence_length", sequence_length, allowed="whole numbers >= 1", cure="32 is usual."
        )
        self.tokenizer: Tokenizer = tokenizer
        self.sequence_length = sequence_length
        self._tables = tuple(tables)
        facts = {**settings, "tokenizer": tokenizer.digest, "sequence_length": sequence_length, "packing": 1}
        digested = json.dumps(facts, sort_keys=True)
        try:
            super().__init__(
                urls,
                layout=f"{type(self).__name__}-{hashlib.sha256(digested.encode()).hexdigest()[:16]}",
                digested=digested,
                options=replace(options, index_dir=str(index_folder(options))),
            )
        except MissingFile as error:
            raise MissingFile(f"{error} {where_to_get}") from None

    @property
    def random_access(self) -> bool:
        return True

    @abc.abstractmethod
    def lines(self, shard: int) -> Iterator[bytes]:
        """The lines of a shard that rows are made of, in order: what a vocabulary is learnt from."""

    def _packed(self, lengths: NDArray[np.int64], where: str) -> Tables:
        """``first``, ``last`` and ``skip`` of every row."""
        rows = pack(lengths, self.sequence_length)
        if not len(rows.skip):
            raise DataError(
                f"{where} has {int(lengths.sum())} tokens, too few for one row of {self.sequence_length + 1}. Check "
                "that it is the right file, or set a smaller sequence_length."
            )
        return {name: smallest(values) for name, values in rows._asdict().items()}

    def _dumped(self, index: Tables) -> dict[str, Any]:
        return tables_as_json(index)

    def _loaded(self, content: dict[str, Any], size: int) -> Tables:
        tables = tables_from_json(content)
        if set(tables) != set(self._tables) or not len(tables["skip"]):
            raise ValueError("no index of this source")
        return tables

    def _length(self, index: Tables) -> int:
        return len(index["skip"])

    def _key(self, index: Tables, k: int) -> str:
        return f"row {k}"

    def _records(self, shard: int, index: Tables, file: ShardFile, ks: Sequence[int]) -> list[Example]:
        return [self._record(index, file, k) for k in ks]

    def _record(self, index: Tables, file: ShardFile, k: int) -> Example:
        text = self._text(index, file, k)
        return text if isinstance(text, Broken) else {"text": text, "skip": np.int64(index["skip"][k])}

    @abc.abstractmethod
    def _text(self, index: Tables, file: ShardFile, k: int) -> bytes | Broken:
        """The whole lines that row ``k`` has tokens of."""


def tokenized(record: Mapping[str, Any], *, tokenizer: Tokenizer, sequence_length: int) -> dict[str, NDArray[np.int32]]:
    """``tokens`` int32 [``sequence_length`` + 1]. Raises ``ValueError`` for text that is not UTF-8."""
    lines = [line for line in record["text"].split(b"\n") if line]
    tokens = tokenizer.encode(lines)[int(record["skip"]) :][: sequence_length + 1]
    if len(tokens) != sequence_length + 1:
        raise ValueError(f"{len(tokens)} tokens where {sequence_length + 1} were packed: not the text of the index")
    return {"tokens": tokens.copy()}
