import numpy as np
import pytest

from dataecho.plan.keys import KeyStream, integers, uniform, uniforms


def test_the_same_coordinates_give_the_same_bits_however_they_are_chunked():
    stream = KeyStream(0, "augment.shift")
    whole = stream.keys(np.arange(100), 3)
    parts = np.concatenate([stream.keys(np.arange(0, 37), 3), stream.keys(np.arange(37, 100), 3)])
    np.testing.assert_array_equal(whole, parts)


def test_seed_and_epoch_are_not_added():
    one = KeyStream(42, "order").keys(1, np.arange(1000))
    other = KeyStream(43, "order").keys(0, np.arange(1000))
    assert not np.isin(one, other).any()


@pytest.mark.parametrize("other", [KeyStream(0, "b"), KeyStream(1, "a"), KeyStream(2**63, "a")])
def test_purposes_and_seeds_are_independent(other):
    index = np.arange(4096)
    first, second = KeyStream(0, "a").uniform(index), other.uniform(index)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06  # 4 standard deviations


def test_uniform_draws_fill_the_unit_interval_evenly():
    draws = KeyStream(0, "a").uniform(np.arange(100_000))
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 45.3  # chi-square, 19 degrees of freedom, p = 0.0006


def test_a_key_stands_for_many_independent_draws():
    keys = KeyStream(0, "a").keys(np.arange(10_000))
    first, second = uniform(keys, draw=0), uniform(keys, draw=1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04
    faces = integers(keys, draw=0, high=6)
    assert sorted(set(faces.tolist())) == [0, 1, 2, 3, 4, 5]
    assert abs(np.bincount(faces) - 10_000 / 6).max() < 4 * np.sqrt(10_000 * 5 / 36)


@pytest.mark.parametrize("key", [0, 1, 2**63 + 5, 2**64 - 2])
def test_several_numbers_of_one_key_are_the_first_draws_of_its_neighbours(key):
    several = uniforms(np.uint64(key), 4)
    assert all(type(number) is float for number in several)
    assert several == uniform(np.uint64(key) + np.arange(4, dtype=np.uint64), draw=0).tolist()


@pytest.mark.parametrize("coordinates", [(0,), (7, 3), (2**40, 0, 1)])
def test_one_key_is_the_same_as_in_an_array(coordinates):
    stream = KeyStream(5, "noise")
    assert stream.key(*coordinates) == int(stream.keys(*coordinates)[0])
