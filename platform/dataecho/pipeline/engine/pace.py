"""How much is worked on at a time."""

from __future__ import annotations

from dataecho.pipeline.settings import ChunkSize

_LEAST = 16
_SECONDS = 8e-3  # of work are well worth a change of threads
_SHORT = 2e-2  # what the loop does itself rather than wait
_WEIGHT = 0.1  # of the newest measurement


class Pace:
    """``chunk_size`` uses in a piece of work; for ``auto`` as many as take 8 milliseconds at the pace so far, and 16 at
    least. Measured from all threads without a lock: a lost measurement does no harm, and no batch depends on it.

    ``most_batches`` batches at most are one piece where they are smaller than that. For ``auto`` a batch is cut into
    ``least_pieces`` at least where it has 16 uses for each, so that there is work for everybody.
    """

    def __init__(self, chunk_size: ChunkSize, *, most_batches: int, least_pieces: int = 1) -> None:
        self._size = _LEAST if chunk_size == "auto" else chunk_size
        self._is_auto = chunk_size == "auto"
        self._most_batches, self._least_pieces = most_batches, least_pieces
        #: Per use, so far; 0 where nothing was done yet.
        self.seconds = 0.0

    def done(self, num_uses: int, seconds: float) -> None:
        """A piece of so many uses has taken so long."""
        if not num_uses:
            return
        newest = max(seconds / num_uses, 1e-9)
        self.seconds += (newest - self.seconds) * (_WEIGHT if self.seconds else 1.0)
        if self._is_auto:
            self._size = max(_LEAST, int(_SECONDS / self.seconds))

    def cut(self, num_uses: int) -> list[slice]:
        """So many uses in pieces that are no larger, and differ by one at most."""
        num_pieces = -(-num_uses // self._size)
        if self._is_auto:
            num_pieces = max(num_pieces, min(self._least_pieces, num_uses // _LEAST))
        return [
            slice(num_uses * number // num_pieces, num_uses * (number + 1) // num_pieces)
            for number in range(num_pieces)
        ]

    def is_short(self) -> bool:
        """Whether a piece of work is done soon enough for whoever waits to do one."""
        return 0 < self.seconds * self._size < _SHORT

    def num_batches(self, batch_size: int) -> int:
        """How many whole batches are one piece, a power of 2 so that their memory can be used again; 0 where a batch is
        cut."""
        most = min(self._size // batch_size, self._most_batches)
        return 1 << (most.bit_length() - 1) if most else 0
