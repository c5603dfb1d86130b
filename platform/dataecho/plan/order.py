"""The order in which items enter the plan: epoch after epoch, each item once an epoch, permuted without storing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import SettingError, require
from dataecho.plan.keys import Keys, KeyStream

Ids = NDArray[np.int64]

#: Columns of an item: entry ordinal, epoch, shard, position in the shard.
ITEM_COLUMNS = ("ordinal", "epoch", "shard", "k")

_ROUNDS = 8
_MULTIPLIER_1 = np.uint64(0xD6E8FEB86659FD93)
_MULTIPLIER_2 = np.uint64(0xCA9B0C7EBA1DA115)
_HALF = np.uint64(32)
_SHIFT = np.uint64(29)


class Permutation:
    """A keyed bijection on 0..size-1: any position at once, no memory, a billion items as cheap as ten.

    A Feistel network over Z_a x Z_b with a * b just above ``size`` and cycle walking (Black and Rogaway, CT-RSA 2002).
    """

    def __init__(self, size: int, round_keys: Keys) -> None:
        self._size = size
        self._high = max(1, int(np.ceil(np.sqrt(size))))
        self._low = -(-size // self._high)
        self._round_keys = round_keys

    @classmethod
    def of(cls, size: int, stream: KeyStream, *coordinates: int) -> Permutation:
        """The permutation of ``size`` items that ``stream`` gives to ``coordinates`` (say: epoch, shard)."""
        return cls(size, stream.keys(*coordinates, np.arange(_ROUNDS)))

    def __call__(self, positions: Ids) -> Ids:
        """The images of ``positions`` (int64, each in [0, size))."""
        images = self._once(positions)
        outside = np.flatnonzero(images >= self._size)
        while outside.size:  # cycle walking: the domain is at most sqrt(size) larger than size
            images[outside] = self._once(images[outside])
            outside = outside[images[outside] >= self._size]
        return images

    def _once(self, positions: Ids) -> Ids:
        left, right = (half.view(np.uint64) for half in divmod(positions, self._low))
        # In place: half of the time of a plan was spent here, much of it on new memory for every operation.
        bits, spare = np.empty_like(left), np.empty_like(left)
        for number in range(0, _ROUNDS, 2):
            _round(left, right, self._round_keys[number], np.uint64(self._high), bits, spare)
            _round(right, left, self._round_keys[number + 1], np.uint64(self._low), bits, spare)
        left *= np.uint64(self._low)
        left += right
        return left.view(np.int64)


def _round(target: Keys, half: Keys, key: np.uint64, modulus: np.uint64, bits: Keys, spare: Keys) -> None:
    """Add a hash of ``half`` to ``target``, modulo ``modulus``; ``bits`` and ``spare`` are memory to work in."""
    np.add(half, key, out=bits)
    bits *= _MULTIPLIER_1
    bits ^= np.right_shift(bits, _SHIFT, out=spare)
    bits *= _MULTIPLIER_2
    bits >>= _HALF
    bits *= modulus
    bits >>= _HALF
    target += bits
    # What is below the modulus becomes huge by the subtraction, and stays as it is.
    np.minimum(target, np.subtract(target, modulus, out=spare), out=target)


class Order:
    """An endless stream of items: every epoch's items enter exactly once, and epochs follow each other at once.

    The length of a shard is looked up in ``lengths`` when it is first reached, see :meth:`needed_length`. With
    ``shuffle_items`` (random access) the items inside a shard are permuted; shards always are. With ``deal_shards``
    rank ``rank`` of ``num_ranks`` gets every ``num_ranks``-th shard of an epoch, otherwise every ``num_ranks``-th item
    of each shard.
    """

    def __init__(
        self,
        lengths: Mapping[int, int],
        *,
        num_shards: int,
        seed: int,
        shuffle_items: bool,
        deal_shards: bool = False,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        require(num_shards >= 1, "source.num_shards", num_shards, allowed=">= 1", cure="Name a source that has data.")
        require(
            not deal_shards or num_ranks <= num_shards,
            "num_ranks",
            num_ranks,
            allowed=f"at most the number of shards, {num_shards}",
            cure="Write more shards or use fewer ranks.",
        )
        self._known = lengths
        self._num_shards = num_shards
        self._shuffle_items, self._deal_shards = shuffle_items, deal_shards
        self._rank, self._num_ranks = rank, num_ranks
        self._shard_stream = KeyStream(seed, "order.shards")
        self._item_stream = KeyStream(seed, "order.items")
        self._lengths: dict[int, int] = {}
        self._first_shard, self._shard_stride = (rank, num_ranks) if deal_shards else (0, 1)
        self._ordinal = self._epoch = self._position = 0
        self._shard_position = self._first_shard
        self._any_this_epoch = False
        self._here: tuple[tuple[int, int], int] | None = None  # the shard of the place where it was last looked up

    @property
    def epoch(self) -> int:
        """The epoch of the item that was taken last, 0 at the start."""
        return self._epoch

    def needed_length(self) -> int | None:
        """The shard whose length must be known before an item can be taken, if it is not. Raises
        :class:`SettingError` if an epoch has no item."""
        while True:
            shard = self._shard()
            length = self._length(shard)
            if length is None:
                return shard
            if self._position < len(self._positions(length)):
                return None
            self._next_shard()

    def take(self, most: int) -> Ids:
        """The next items, ``[n, 4]``, columns :data:`ITEM_COLUMNS`: ``most``, or those that are left of a shard.
        Raises ``LookupError`` where :meth:`needed_length` names a shard."""
        if self.needed_length() is not None:
            raise LookupError(f"the length of shard {self._shard()} is not known")
        shard = self._shard()
        positions = self._positions(self._lengths[shard])
        count = min(most, len(positions) - self._position)
        items = np.empty((count, 4), dtype=np.int64)
        wanted = np.arange(self._position, self._position + count) * positions.step + positions.start
        if self._shuffle_items:
            wanted = Permutation.of(self._lengths[shard], self._item_stream, self._epoch, shard)(wanted)
        items[:, 0] = np.arange(self._ordinal, self._ordinal + count)
        items[:, 1], items[:, 2], items[:, 3] = self._epoch, shard, wanted
        self._position += count
        self._any_this_epoch = True
        self._ordinal += count
        return items

    def shards_ahead(self) -> Iterator[tuple[int, int, int]]:
        """The shards from here on, without end and without asking for a length: (epoch, shard, how many of its items
        have been taken)."""
        return self._shards_from(self._epoch, self._shard_position, self._position)

    def _shards_from(self, epoch: int, shard_position: int, position: int) -> Iterator[tuple[int, int, int]]:
        while True:
            if shard_position >= self._num_shards:
                epoch, shard_position = epoch + 1, self._first_shard
            yield epoch, self.shard_at(epoch, shard_position), position
            shard_position += self._shard_stride
            position = 0

    def state_dict(self) -> dict[str, Any]:
        """Positions, and the lengths of the shards met so far: never lists of what is left."""
        return {
            "ordinal": self._ordinal,
            "epoch": self._epoch,
            "shard_position": self._shard_position,
            "position": self._position,
            "any_this_epoch": self._any_this_epoch,
            "shard_lengths": {str(shard): length for shard, length in sorted(self._lengths.items())},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken; the current shard must still have the length it had, if that is known."""
        self._ordinal, self._epoch = state["ordinal"], state["epoch"]
        self._shard_position, self._position = state["shard_position"], state["position"]
        self._any_this_epoch = state["any_this_epoch"]
        self._lengths = {}
        shard = self._shard()
        for met, length in state["shard_lengths"].items():
            now = self._known.get(int(met), length)
            if int(met) == shard and now != length:
                raise SettingError(
                    f"length of shard {shard}",
                    now,
                    allowed=f"{length}, the length when the checkpoint was written",
                    cure="Restore the data the run was started with, or start a new run.",
                )
            self._lengths[int(met)] = length

    def _shard(self) -> int:
        place = self._epoch, self._shard_position
        if self._here is None or self._here[0] != place:
            self._here = place, self.shard_at(*place)
        return self._here[1]

    def shard_at(self, epoch: int, position: int) -> int:
        """The shard at a position in the order of an epoch."""
        if self._num_shards == 1:
            return 0
        wanted = np.array([position], dtype=np.int64)
        return int(Permutation.of(self._num_shards, self._shard_stream, epoch)(wanted)[0])

    def _length(self, shard: int) -> int | None:
        """Noted when it is first needed: a state has the lengths that it depends on."""
        if shard not in self._lengths and shard in self._known:
            self._lengths[shard] = self._known[shard]
        return self._lengths.get(shard)

    def _positions(self, length: int) -> range:
        return range(length) if self._deal_shards else range(self._rank, length, self._num_ranks)

    def _next_shard(self) -> None:
        self._position = 0
        self._shard_position += self._shard_stride
        if self._shard_position < self._num_shards:
            return
        require(
            self._any_this_epoch,
            "source",
            "no example in an epoch",
            allowed="at least one",
            cure="Name data that exists.",
        )
        self._epoch += 1
        self._shard_position = self._first_shard
        self._any_this_epoch = False
