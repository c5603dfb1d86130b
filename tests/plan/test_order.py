import itertools
from collections import Counter

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Order, Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 97, 1297, 65_536, 100_003])
def test_a_permutation_is_a_bijection_at_any_chunking(size):
    permutation = Permutation.of(size, KeyStream(0, "p"), 0)
    whole = permutation(np.arange(size))
    assert sorted(whole.tolist()) == list(range(size))
    cut = size // 3
    np.testing.assert_array_equal(
        whole, np.concatenate([permutation(np.arange(cut)), permutation(np.arange(cut, size))])
    )


def test_any_position_of_a_huge_permutation_is_found_at_once():
    size = 10**12
    images = Permutation.of(size, KeyStream(0, "p"), 0)(np.array([0, size // 2, size - 1]))
    assert ((images >= 0) & (images < size)).all() and len(set(images.tolist())) == 3


def test_all_permutations_of_four_items_are_about_equally_likely():
    stream = KeyStream(0, "p")
    seen = Counter(tuple(Permutation.of(4, stream, epoch)(np.arange(4)).tolist()) for epoch in range(4800))
    assert set(seen) == set(itertools.permutations(range(4)))
    assert (
        sum((count - 200) ** 2 / 200 for count in seen.values()) < 55
    )  # chi-square, 23 degrees of freedom, p = 0.0002


def test_every_position_goes_everywhere_equally_often():
    stream = KeyStream(3, "p")
    images = np.array([Permutation.of(50, stream, epoch)(np.arange(50)) for epoch in range(2000)])
    counts = np.array([np.bincount(images[:, position], minlength=50) for position in (0, 1, 24, 49)])
    assert ((counts - 40) ** 2 / 40).sum(axis=1).max() < 95  # 49 degrees of freedom, p = 0.0001


class Lengths(dict):
    """Remembers which shards were looked up."""

    def __init__(self, lengths):
        super().__init__(enumerate(lengths))
        self.asked = []

    def __getitem__(self, shard):
        self.asked.append(shard)
        return super().__getitem__(shard)


def order(lengths, **settings):
    lengths = Lengths(lengths)
    settings = {"seed": 0, "shuffle_items": True, **settings}
    return Order(lengths, num_shards=len(lengths), **settings), lengths.asked


def take(stream, count):
    """Across shards."""
    items = []
    while count:
        items.append(stream.take(count))
        count -= len(items[-1])
    return np.concatenate(items)


@pytest.mark.parametrize("shuffle_items", [True, False])
def test_every_item_enters_once_an_epoch_and_epochs_follow_without_a_gap(shuffle_items):
    stream, _ = order([3, 0, 4], shuffle_items=shuffle_items)
    items = np.concatenate([take(stream, count) for count in (1, 5, 8, 7)])
    assert items[:, 0].tolist() == list(range(21))
    for epoch in range(3):
        of_epoch = items[7 * epoch : 7 * epoch + 7]
        assert set(of_epoch[:, 1].tolist()) == {epoch}
        assert sorted(map(tuple, of_epoch[:, 2:].tolist())) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (2, 3)]


def test_without_random_access_a_shard_is_read_from_front_to_back():
    stream, asked = order([3, 2, 4], shuffle_items=False)
    items = take(stream, 9)
    for shard in range(3):
        assert items[items[:, 2] == shard, 3].tolist() == list(range([3, 2, 4][shard]))
    assert sorted(asked) == [0, 1, 2]


def test_a_shard_is_asked_for_its_length_only_when_it_is_reached():
    stream, asked = order([5, 5, 5, 5], shuffle_items=False)
    stream.take(5)
    assert len(asked) == 1
    stream.take(1)
    assert len(asked) == 2


@pytest.mark.parametrize("deal_shards", [True, False])
@pytest.mark.parametrize("shuffle_items", [True, False])
def test_ranks_share_the_items_of_an_epoch_out(shuffle_items, deal_shards):
    seen = []
    for rank in range(3):
        stream, asked = order([6, 9, 3], shuffle_items=shuffle_items, deal_shards=deal_shards, rank=rank, num_ranks=3)
        items = take(stream, 3)
        assert len(asked) == (1 if deal_shards else 2)  # a rank has nothing to do with the others' shards
        items = np.concatenate([items, take(stream, 37)])
        seen += [tuple(item) for item in items[items[:, 1] == 0][:, 2:].tolist()]
    assert sorted(seen) == [(shard, k) for shard, length in enumerate([6, 9, 3]) for k in range(length)]


def test_an_empty_source_is_refused_instead_of_hanging():
    stream, _ = order([0, 0])
    with pytest.raises(SettingError, match="no example in an epoch"):
        stream.take(1)


def test_more_ranks_than_shards_are_refused():
    with pytest.raises(SettingError, match="num_ranks=3.*number of shards, 2"):
        order([5, 5], shuffle_items=True, deal_shards=True, num_ranks=3)


def test_a_shard_that_changed_is_refused_on_restore():
    stream, _ = order([5])
    stream.take(2)
    changed, _ = order([6])
    with pytest.raises(SettingError, match=r"length of shard 0=6.*5, the length when the checkpoint"):
        changed.load_state_dict(stream.state_dict())
