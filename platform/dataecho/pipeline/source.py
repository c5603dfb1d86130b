"""Where examples come from: a list of shards, read by (shard, position)."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import require
from dataecho.pipeline.stage import Chunk


class Source(abc.ABC):
    """A list of shards. One (shard, k) is one example, the same one whenever it is read.

    Three kinds, told apart by two numbers:

    * at hand (both 0): workers read an example when it is first used. Memory, local files.
    * far away (``num_readers`` > 0): as many threads of their own read the examples of the batches ahead, so that no
      worker waits for a network. Files behind a URL.
    * brought in shard by shard (``num_fetches`` > 0): as many threads fetch the next shards in the order of the plan;
      an example is read when it enters the plan, a shard dropped when its last one was. Each byte of an epoch travels
      once. Archives behind a URL.

    Raises :class:`DataError` where data cannot be read; a single broken example is a value, ``Broken``.

        >>> from dataecho import Feed, Source
        >>> class Squares(Source):
        ...     num_shards, random_access, digest = 1, True, "squares of 0 to 9"
        ...
        ...     def num_examples(self, shard):
        ...         return 10
        ...
        ...     def read(self, shards, ks):
        ...         return {"x": ks**2}  # arrays whose first axis is the example, or a list of examples
        >>> with Feed(Squares(), [], batch_size=10, shuffle_buffer=0, seed=0) as feed:
        ...     print(sorted(next(feed)["x"].tolist()))
        [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
    """

    @property
    @abc.abstractmethod
    def num_shards(self) -> int:
        """Number of shards, known at once."""

    @abc.abstractmethod
    def num_examples(self, shard: int) -> int:
        """Length of a shard; asked when the plan first reaches it."""

    @property
    @abc.abstractmethod
    def random_access(self) -> bool:
        """Whether any example of a shard (that is here) can be read at the same price. If not, shards are read from
        front to back, when items enter the plan."""

    @property
    def num_readers(self) -> int:
        """Threads that should wait for reads; 0: a read does not wait."""
        return 0

    @property
    def is_in_memory(self) -> bool:
        """Whether records are copied out of memory: no read can ever wait, for a disk neither, so that the training
        loop may read, too; and what it gives belongs to whoever reads, so that a batch can be a view of it."""
        return False

    @property
    def num_fetches(self) -> int:
        """Shards that should be fetched at once; 0: there is nothing to fetch."""
        return 0

    @property
    def limits_places(self) -> bool:
        """Whether a fetch may wait for a place that another fetched shard has. Then :meth:`fetch` is given
        ``on_place`` and calls it as soon as its bytes have a place; the next fetch begins only then, so that no shard
        takes the place of one that is needed earlier."""
        return False

    def fetch(self, shard: int, *, proceed: Callable[[], None], on_place: Callable[[], None] = lambda: None) -> int:
        """Bring a shard here, so that its length and examples can be had without waiting; the number of bytes that
        travelled, 0 if it was here. Calls ``proceed()`` between pieces of at most a second: it returns when the work
        may go on, and raises when it is to be given up (whatever is half there is removed)."""
        return 0

    def drop(self, shard: int) -> None:  # noqa: B027 - most sources hold nothing
        """A fetched shard will not be read soon: its copy may go. :meth:`read` still works, at a higher price."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """Short hexadecimal name of the data: a checkpoint is refused where it differs."""

    def name(self, shard: int, k: int) -> str:
        """The name by which a person finds this example; used in errors and in the list of skipped examples."""
        return f"example {k} of shard {shard}"

    @abc.abstractmethod
    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        """The records at these positions, in this order; called from several threads at once. Works whether or not a
        shard was fetched. An example that is broken, when others of its shard are not, comes as
        :class:`dataecho.pipeline.stage.Broken`; for whatever concerns more than one example raises
        :class:`dataecho.errors.DataError`."""


class ArraySource(Source):
    """Arrays in memory, one shard; ``fields`` maps a name to an array whose first axis is the example.

    Records are dictionaries with a row of every field, copies that may be written to. Raises :class:`SettingError` for
    fields of different lengths, and for arrays of Python objects.

        >>> import numpy as np
        >>> from dataecho import ArraySource
        >>> source = ArraySource({"image": np.zeros((100, 32, 32, 3), np.uint8), "label": np.zeros(100, np.int64)})
        >>> source.num_examples(0)
        100
    """

    def __init__(self, fields: Mapping[str, NDArray[Any]]) -> None:
        lengths = {name: len(array) for name, array in fields.items()}
        require(
            len(set(lengths.values())) == 1,
            "fields",
            lengths,
            allowed="one or more arrays of the same length",
            cure="Give every field one row per example.",
        )
        objects = [name for name, array in fields.items() if array.dtype == object]
        require(not objects, "fields", objects, allowed="arrays of numbers or fixed text", cure="Convert them first.")
        self._fields = dict(fields)
        self._length = next(iter(lengths.values()))
        digest = hashlib.sha256()
        for name, array in sorted(self._fields.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        self._digest = digest.hexdigest()[:32]

    @property
    def num_shards(self) -> int:
        return 1

    def num_examples(self, shard: int) -> int:
        return self._length

    @property
    def random_access(self) -> bool:
        return True

    @property
    def is_in_memory(self) -> bool:
        """A subclass that reads in a way of its own has to promise it anew."""
        return type(self).read is ArraySource.read

    @property
    def digest(self) -> str:
        return self._digest

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return {name: array[ks] for name, array in self._fields.items()}


def shard_lengths(source: Source) -> Sequence[int]:
    """Length of every shard, opening each."""
    return [source.num_examples(shard) for shard in range(source.num_shards)]
