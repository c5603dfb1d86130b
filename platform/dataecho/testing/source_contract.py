"""The contract suite of sources. Subclass :class:`SourceContract` in a test file; pytest does the rest.

class TestMySource(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        return lambda: MySource(write_files(tmp_path / "data"))

    @pytest.fixture
    def changed_source(self, tmp_path):
        return MySource(write_files(tmp_path / "changed", last_value=7))
"""

from __future__ import annotations

import abc
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dataecho.pipeline.source import Source, shard_lengths
from dataecho.pipeline.stage import Chunk, as_examples, chunk_length

NewSource = Callable[[], Source]
Positions = tuple[NDArray[np.int64], NDArray[np.int64]]

_NUM_THREADS = 4


def fingerprint(example: Any) -> str:
    """A digest of everything an example consists of: names, types, shapes and values. Raises ``TypeError`` for what is
    not made of dictionaries, sequences, arrays, numbers and strings."""
    digest = hashlib.sha256()
    _feed(digest.update, example)
    return digest.hexdigest()


def fingerprints(chunk: Chunk) -> list[str]:
    """The fingerprint of every example."""
    return [fingerprint(example) for example in as_examples(chunk)]


def all_positions(source: Source) -> Positions:
    """Every (shard, k), front to back."""
    lengths = shard_lengths(source)
    ks = [np.arange(length, dtype=np.int64) for length in lengths]
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths), np.concatenate(ks)


class SourceContract(abc.ABC):
    """One (shard, k) is one example, the same one whenever and by whomever it is read. At least 8 examples, please."""

    @pytest.fixture
    @abc.abstractmethod
    def new_source(self) -> NewSource:
        """A function that opens the same small data, every call anew."""

    @pytest.fixture
    @abc.abstractmethod
    def changed_source(self) -> Source:
        """A source of the same shape with one value changed."""

    def test_there_is_enough_to_test_with(self, new_source: NewSource) -> None:
        assert sum(shard_lengths(new_source())) >= 8

    def test_lengths_are_whole_numbers_that_stay(self, new_source: NewSource) -> None:
        source = new_source()
        first = shard_lengths(source)
        assert len(first) == source.num_shards >= 1
        assert all(isinstance(length, int) and length >= 0 for length in first)
        fingerprints(source.read(*all_positions(source)))
        assert shard_lengths(source) == shard_lengths(new_source()) == first

    def test_one_record_comes_for_every_position(self, new_source: NewSource) -> None:
        source = new_source()
        assert chunk_length(source.read(*all_positions(source))) == sum(shard_lengths(source))

    def test_records_come_in_the_order_asked_for(self, new_source: NewSource) -> None:
        source = new_source()
        shards, ks = all_positions(source)
        order = np.arange(len(ks))
        if source.random_access:  # in any order, across shards, and more than once
            order = np.random.default_rng(0).permutation(np.concatenate([order, order[::2]]))
        single = _one_by_one(new_source())
        assert fingerprints(source.read(shards[order], ks[order])) == [single[number] for number in order]

    def test_reading_again_gives_the_same(self, new_source: NewSource) -> None:
        source = new_source()
        positions = all_positions(source)
        first = fingerprints(source.read(*positions))
        assert fingerprints(source.read(*positions)) == fingerprints(new_source().read(*positions)) == first

    def test_what_is_copied_out_of_memory_belongs_to_whoever_reads(self, new_source: NewSource) -> None:
        source = new_source()
        positions = all_positions(source)
        first = fingerprints(source.read(*positions))
        chunk = source.read(*positions)
        if source.is_in_memory and isinstance(chunk, dict):  # which a batch may then be a view of
            for values in chunk.values():
                values[...] = np.zeros_like(values)
        assert fingerprints(source.read(*positions)) == first

    @pytest.mark.parametrize("size", [2, 3, 7])
    def test_the_cut_into_reads_changes_nothing(self, new_source: NewSource, size: int) -> None:
        source = new_source()
        parts = _cut(all_positions(source), size)
        assert [row for part in parts for row in fingerprints(source.read(*part))] == _one_by_one(new_source())

    def test_threads_that_read_at_once_get_the_same(self, new_source: NewSource) -> None:
        source = new_source()
        expected = _one_by_one(new_source())
        shards, ks = all_positions(source)
        order = np.arange(len(ks))
        if source.random_access:
            order = np.random.default_rng(0).permutation(np.tile(order, 8))
        parts = list(_cut((shards[order], ks[order]), 2))
        start = threading.Barrier(_NUM_THREADS)

        def read(thread: int) -> list[list[str]]:
            start.wait(timeout=60)
            return [fingerprints(source.read(*part)) for part in parts[thread::_NUM_THREADS]]

        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            results = list(pool.map(read, range(_NUM_THREADS)))
        got = [row for number in range(len(parts)) for row in results[number % _NUM_THREADS][number // _NUM_THREADS]]
        assert got == [expected[number] for number in order]

    def test_whoever_writes_into_a_record_does_not_change_the_source(self, new_source: NewSource) -> None:
        source = new_source()
        positions = all_positions(source)
        digest, before = source.digest, fingerprints(source.read(*positions))
        for part in [positions, *_cut(positions, 1)]:
            _spoil(source.read(*part))
        assert fingerprints(source.read(*positions)) == before
        assert source.digest == digest

    def test_reads_are_the_same_before_a_fetch_and_after_and_when_it_was_dropped(self, new_source: NewSource) -> None:
        expected = _one_by_one(new_source())
        source = new_source()
        for _ in range(2):
            for shard in range(source.num_shards):
                assert source.fetch(shard, proceed=_go_on) >= 0
                assert source.fetch(shard, proceed=_go_on) == 0, "it was here"
            assert _one_by_one(source) == expected
            for shard in [*range(source.num_shards)] * 2:
                source.drop(shard)
            assert _one_by_one(source) == expected

    def test_a_fetch_that_is_given_up_can_be_done_again(self, new_source: NewSource) -> None:
        source = new_source()
        assert source.num_fetches >= 0 and source.num_readers >= 0
        if source.num_fetches == 0:
            assert source.fetch(0, proceed=_give_up) == 0, "there is nothing to fetch"
            return
        with pytest.raises(_GivenUpError):
            source.fetch(0, proceed=_give_up)
        source.drop(0)  # as whoever closes drops whatever it has begun to fetch
        assert source.fetch(0, proceed=_go_on) > 0, "what was half there is removed"
        assert _one_by_one(source) == _one_by_one(new_source())

    def test_a_source_of_limited_places_says_when_a_fetch_has_one(self, new_source: NewSource) -> None:
        source, placed = new_source(), []
        if not source.limits_places:
            return
        assert source.fetch(0, proceed=_go_on, on_place=lambda: placed.append("place")) > 0
        assert placed == ["place"]

    def test_every_example_has_a_name_of_its_own(self, new_source: NewSource) -> None:
        source = new_source()
        shards, ks = all_positions(source)
        names = [source.name(shard, k) for shard, k in zip(shards.tolist(), ks.tolist(), strict=True)]
        assert all(names) and len(set(names)) == len(names)
        assert new_source().name(0, 0), "before anything was opened, too"

    def test_the_digest_is_short_hexadecimal_and_stays(self, new_source: NewSource) -> None:
        source = new_source()
        digest = source.digest
        assert 8 <= len(digest) <= 64 and int(digest, 16) >= 0
        source.read(*all_positions(source))
        assert source.digest == new_source().digest == digest

    def test_the_digest_tells_other_data_apart(self, new_source: NewSource, changed_source: Source) -> None:
        source = new_source()
        assert shard_lengths(changed_source) == shard_lengths(source)
        changed = _one_by_one(changed_source)
        assert sum(mine != theirs for mine, theirs in zip(_one_by_one(source), changed, strict=True)) == 1
        assert changed_source.digest != source.digest


class _GivenUpError(Exception):
    pass


def _go_on() -> None:
    pass


def _give_up() -> None:
    raise _GivenUpError


def _cut(positions: Positions, size: int) -> Iterator[Positions]:
    shards, ks = positions
    for start in range(0, len(ks), size):
        yield shards[start : start + size], ks[start : start + size]


def _one_by_one(source: Source) -> list[str]:
    return [fingerprints(source.read(*part))[0] for part in _cut(all_positions(source), 1)]


def _spoil(value: Any) -> None:
    """Write into every array that lets itself be written to."""
    if isinstance(value, dict):
        for item in value.values():
            _spoil(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _spoil(item)
    elif isinstance(value, np.ndarray) and value.flags.writeable:
        value[...] = np.zeros((), dtype=value.dtype)
    elif isinstance(value, bytearray):
        value[:] = bytes(len(value))


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, dict):
        update(f"dict {len(value)} ".encode())
        for name in sorted(value):
            _feed(update, name)
            _feed(update, value[name])
    elif isinstance(value, list | tuple):
        update(f"list {len(value)} ".encode())
        for item in value:
            _feed(update, item)
    elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        update(f"array {value.dtype.str} {value.shape} ".encode())
        update(np.asarray(value).tobytes())
    elif isinstance(value, bytes | bytearray | memoryview):
        update(f"bytes {len(value)} ".encode())
        update(bytes(value))
    elif isinstance(value, str | int | float | None):
        update(f"{type(value).__name__} {value!r} ".encode())
    else:
        raise TypeError(f"{type(value).__name__} in an example: no array, number, string or collection of them")
