"""What waits in memory, and what goes to the spill."""

import numpy as np
import pytest

from dataecho.errors import DataError
from dataecho.pipeline.storage.spill import Spill, SpillCache


class Account:
    def __init__(self):
        self.num_bytes = self.num_spilled = 0

    def __call__(self, num_bytes, num_spilled):
        self.num_bytes += num_bytes
        self.num_spilled += num_spilled


def record(number, size=10_000):
    return {"image": bytes([number]) * size, "label": np.int64(number), "key": b"small"}


def test_everything_within_the_limit_stays_in_memory():
    account = Account()
    cache = SpillCache(account, max_bytes=50_000, spill=Spill(max_bytes=1 << 20))
    kept = [cache.put(record(number)) for number in range(4)]
    assert (account.num_bytes, account.num_spilled) == (4 * 10_013, 0)
    assert [cache.get(k) for k in kept] == [record(number) for number in range(4)]
    for k in kept:
        cache.remove(k)
    assert (account.num_bytes, account.num_spilled) == (0, 0)


def test_the_long_byte_strings_of_what_is_beyond_go_to_the_file_and_come_back():
    account, spill = Account(), Spill(max_bytes=1 << 20)
    cache = SpillCache(account, max_bytes=15_000, spill=spill)
    kept = [cache.put(record(number)) for number in range(5)]
    assert (account.num_bytes, account.num_spilled) == (5 * 10_013, 4 * 10_000)
    assert [cache.get(k) for k in reversed(kept)] == [record(number) for number in reversed(range(5))]
    assert cache.get(kept[3]) == record(3)  # and again
    for k in kept:
        cache.remove(k)
    assert (account.num_bytes, account.num_spilled) == (0, 0)
    assert cache.put(record(9)).num_spilled == 0  # there is room in memory again
    spill.close()


def test_space_in_the_file_is_used_again():
    spill = Spill(max_bytes=3 * 10_240)
    for number in range(50):
        extents = [spill.write(bytes([number + k]) * (10_000 + k)) for k in range(3)]
        assert [spill.read(extent) for extent in extents] == [bytes([number + k]) * (10_000 + k) for k in range(3)]
        for extent in extents:
            spill.free(extent)


@pytest.mark.parametrize("length", [1, 5, 4095, 4096, 4097, 10_000, 65_535, 65_536, 65_537, 999_999])
def test_a_room_is_at_most_a_quarter_larger_than_what_is_in_it(length):
    extent = Spill(max_bytes=1 << 30).write(b"." * length)
    assert length <= extent.room <= max(1.25 * length, length + 1)


def test_a_full_spill_is_an_error_with_the_numbers_and_the_cure():
    spill = Spill(max_bytes=25_000)
    spill.write(b"." * 10_000)
    spill.write(b"." * 10_000)
    with pytest.raises(DataError, match="20480 bytes of records wait in it, pipeline.max_spill allows 25000. Raise"):
        spill.write(b"." * 10_000)


def test_an_array_is_copied_out_of_what_it_was_cut_from_and_cannot_be_written_to():
    whole = np.arange(10)
    cache = SpillCache(Account())
    example = cache.get(cache.put({"x": whole[2:4]}))
    whole[2] = 99
    assert example["x"].tolist() == [2, 3] and example["x"].base is None
    with pytest.raises(ValueError, match="read-only"):
        example["x"][0] = 1
