"""The plan against a model that a reader can check by eye, and against what a sliding buffer implies."""

import json
from collections import Counter

import numpy as np
import pytest

from dataecho.errors import SettingError, shown
from dataecho.plan.echo import EchoFactor
from dataecho.plan.factors import FactorHistory
from dataecho.plan.keys import KeyStream
from dataecho.plan.memory import expected_live_results, expected_waiting_records
from dataecho.plan.plan import Plan

ECHOES = {
    "none": {},
    "item 2": {"factor": 2.0},
    "item 2.5": {"factor": 2.5},
    "item 8": {"factor": 8.0},
    "batch 2": {"factor": 2.0, "echo_batches": True},
    "batch 2.5 shuffled": {"factor": 2.5, "echo_batches": True, "batch_shuffle_buffer": 3},
}
every_echo = pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())


def plan(size=50, **settings):
    settings = {"num_shards": 1, "seed": 0, "batch_size": 8, "shuffle_buffer": 20, **settings}
    return Plan({0: size}, **settings)


def uses(batches):
    return [
        use
        for batch in batches
        for use in zip(
            *(column.tolist() for column in (batch.ordinal, batch.epoch, batch.k, batch.repeat, batch.num_repeats)),
            strict=True,
        )
    ]


def by_hand(entries, num_uses, slots, length):
    """The sliding buffer, one use at a time."""
    copies = iter([entry for entry, n in zip(entries, num_uses, strict=True) for _ in range(n)])
    buffer = [next(copies) for _ in range(length)]
    left = Counter()
    out = []
    for slot in slots:
        entry = buffer[slot]
        out.append((entry, left[entry]))
        left[entry] += 1
        buffer[slot] = next(copies)
    return out


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 8.0])
def test_the_block_wise_buffer_equals_the_sliding_buffer_by_hand(factor):
    batches = plan(factor=factor).take(250)
    num_uses = EchoFactor(FactorHistory.constant(factor), KeyStream(0, "items.uses")).num_uses(np.arange(2100))
    slots = KeyStream(0, "items.buffer").integers(20, np.arange(2000))
    expected = by_hand(range(2100), num_uses.tolist(), slots.tolist(), 20)
    assert [(use[0], use[3]) for use in uses(batches)] == expected


@pytest.mark.parametrize("length", [0, 1])
def test_a_buffer_of_none_or_one_keeps_the_copies_side_by_side(length):
    batches = plan(factor=3.0, shuffle_buffer=length, batch_size=1).take(9)
    assert [(use[0], use[3]) for use in uses(batches)] == [(i, r) for i in range(3) for r in range(3)]


def test_batch_echo_repeats_the_same_batch_side_by_side():
    plain = plan().take(4)
    echoed = plan(factor=3.0, echo_batches=True).take(12)
    assert [(b.batch_ordinal, b.batch_repeat, b.num_batch_repeats) for b in echoed] == [
        (i, r, 3) for i in range(4) for r in range(3)
    ]
    for number, batch in enumerate(echoed):
        np.testing.assert_array_equal(batch.ordinal, plain[number // 3].ordinal)
        np.testing.assert_array_equal(batch.k, plain[number // 3].k)
        assert set(batch.repeat.tolist()) == {number % 3}


def test_shuffled_batch_echo_is_the_same_plan_one_level_up():
    echoed = plan(factor=2.5, echo_batches=True, batch_shuffle_buffer=3).take(100)
    num_uses = EchoFactor(FactorHistory.constant(2.5), KeyStream(0, "batches.uses")).num_uses(np.arange(110))
    slots = KeyStream(0, "batches.buffer").integers(3, np.arange(100))
    expected = by_hand(range(110), num_uses.tolist(), slots.tolist(), 3)
    assert [(b.batch_ordinal, b.batch_repeat) for b in echoed] == expected


@every_echo
@pytest.mark.parametrize("split", [(1,) * 40, (40,), (3, 17, 20)])
def test_how_the_plan_is_cut_into_calls_changes_nothing(echo, split):
    whole = plan(**echo).take(40)
    again = plan(**echo)
    parts = [batch for count in split for batch in again.take(count)]
    assert uses(whole) == uses(parts)
    for name in ("num_entered", "epochs_entered", "num_fresh", "num_duplicates", "batch_ordinal"):
        assert [getattr(b, name) for b in whole] == [getattr(b, name) for b in parts], name
    np.testing.assert_array_equal(np.stack([b.lag for b in whole]), np.stack([b.lag for b in parts]))


@pytest.mark.parametrize("echo_batches", [False, True])
def test_factor_1_equals_none_batch_for_batch(echo_batches):
    none, one = plan().take(50), plan(factor=1.0, echo_batches=echo_batches).take(50)
    assert uses(none) == uses(one)
    assert [b.num_entered for b in none] == [b.num_entered for b in one]


@every_echo
def test_no_item_is_used_before_it_has_entered_and_every_entry_is_told_once(echo):
    entered = []
    for batch in plan(**echo).take(200):
        entered += batch.entered[:, 0].tolist()
        assert entered == list(range(batch.num_entered))
        assert batch.epochs_entered == batch.entered[-1, 1] + 1 if len(batch.entered) else True
        assert set(batch.ordinal.tolist()) <= set(entered)


@pytest.mark.parametrize("size", [5, 50, 1297])
def test_a_source_may_be_shorter_than_the_buffer(size):
    batches = plan(size=size, factor=2.0, shuffle_buffer=64).take(400)
    counts = Counter((epoch, k) for _, epoch, k, _, _ in uses(batches))
    first_epochs = [counts[(epoch, k)] for epoch in range(1) for k in range(size)]
    assert max(counts.values()) == 2
    if size < 1000:
        assert first_epochs == [2] * size


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 8.0])
def test_over_a_million_uses_every_item_of_an_epoch_is_used_exactly_as_planned(factor):
    size, buffer = 10_000, 1000
    source = plan(size=size, batch_size=100, shuffle_buffer=buffer, factor=factor)
    columns = []
    for _ in range(100):
        block = source.take(100)
        columns.append(np.stack([np.stack([b.ordinal, b.epoch, b.k, b.repeat, b.num_repeats]) for b in block]))
    ordinal, epoch, k, repeat, num_repeats = np.concatenate(columns).transpose(1, 0, 2).reshape(5, -1)
    assert len(ordinal) == 1_000_000
    # (epoch, k) and the entry ordinal name the same thing, and each (item, repeat) comes once
    assert len(np.unique(epoch * size + k)) == len(np.unique(ordinal))
    assert len(np.unique(ordinal * 16 + repeat)) == 1_000_000
    # of all epochs that have left the buffer entirely, every item came with every repeat
    finished = int(1_000_000 / (factor * size)) - 1
    planned = EchoFactor(FactorHistory.constant(factor), KeyStream(0, "items.uses")).num_uses(
        np.arange(finished * size)
    )
    inside = ordinal < finished * size
    used = np.bincount(ordinal[inside], minlength=finished * size)
    late = np.flatnonzero(used != planned)  # stragglers: a sliding buffer has a geometric tail
    assert (used <= planned).all() and (len(late) == 0 or late.min() > finished * size - 40 * buffer)
    np.testing.assert_array_equal(num_repeats[inside], planned[ordinal[inside]])
    assert set(np.unique(planned)) == ({int(factor)} if factor.is_integer() else {2, 3})
    assert abs(planned.mean() - factor) < 4 * 0.5 / np.sqrt(len(planned)) + 1e-12
    for item in range(3):  # repeats are numbered in the order they leave
        assert repeat[ordinal == item].tolist() == list(range(planned[item]))


def test_the_lag_between_uses_is_that_of_a_sliding_buffer():
    """Two copies enter side by side, each leaves after a geometric time: the gap is geometric with mean about B."""
    buffer = 500
    lags = np.concatenate(
        [b.lag[b.repeat > 0] for b in plan(100_000, batch_size=100, shuffle_buffer=buffer, factor=2.0).take(4000)]
    )
    lags = lags[len(lags) // 10 :]
    assert abs(lags.mean() / buffer - 1) < 0.02
    quantiles = np.quantile(lags, [0.1, 0.25, 0.5, 0.75, 0.9]) / buffer
    np.testing.assert_allclose(quantiles, -np.log1p(-np.array([0.1, 0.25, 0.5, 0.75, 0.9])), rtol=0.04)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_duplicates_per_batch_are_those_of_a_sliding_buffer(factor):
    """Simulated by hand on another random stream; a batch of b rows over a buffer of B uses."""
    batch, buffer = 64, 512
    planned = np.mean(
        [b.num_duplicates for b in plan(10**6, batch_size=batch, shuffle_buffer=buffer, factor=factor).take(4000)][200:]
    )
    slots = np.random.default_rng(1).integers(0, buffer, 64 * 2000)
    num_entries = len(slots) + buffer
    out = by_hand(range(num_entries), [int(factor)] * num_entries, slots.tolist(), buffer)
    ids = np.array([entry for entry, _ in out]).reshape(-1, batch)[100:]
    simulated = np.mean([batch - len(set(row.tolist())) for row in ids])
    assert abs(planned / simulated - 1) < 0.05
    exact = plan(100, factor=factor).take(30)
    assert [b.num_duplicates for b in exact] == [8 - len(set(b.ordinal.tolist())) for b in exact]


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 4.0, 8.0])
def test_the_memory_formula_is_what_the_plan_keeps_alive(factor):
    buffer = 2000
    live, waiting = [], []
    used, num, entered = {}, {}, 0
    for number, batch in enumerate(plan(10**6, batch_size=100, shuffle_buffer=buffer, factor=factor).take(2000)):
        for ordinal, repeat, num_repeats in zip(
            batch.ordinal.tolist(), batch.repeat.tolist(), batch.num_repeats.tolist(), strict=True
        ):
            used[ordinal] = repeat + 1
            num[ordinal] = num_repeats
            if used[ordinal] == num_repeats:
                del used[ordinal], num[ordinal]
                entered += 1
        if number >= 400:
            live.append(len(used))
            waiting.append(batch.num_entered - entered - len(used))
    assert abs(np.mean(live) - expected_live_results(buffer, factor)) <= 0.01 * buffer / factor
    assert abs(np.mean(waiting) - expected_waiting_records(buffer, factor)) <= 0.01 * buffer


def test_the_memory_formula_has_the_published_values():
    shares = [expected_live_results(1000, factor) / 1000 for factor in (1, 2, 4, 8)]
    np.testing.assert_allclose(shares, [0.0, 0.5, 0.4583, 0.3241], atol=5e-4)


def through_json(state):
    """What a checkpoint does to a state: arrays aside, everything must survive JSON."""
    if isinstance(state, dict):
        return {key: through_json(value) for key, value in state.items()}
    return state.copy() if isinstance(state, np.ndarray) else json.loads(json.dumps(state))


@every_echo
def test_restored_at_every_position_of_a_2000_use_plan(echo):
    settings = {"size": 300, "batch_size": 1, "shuffle_buffer": 40, **echo}
    whole = plan(**settings).take(2040)
    walker = plan(**settings)
    for position in range(2000):
        restored = plan(**settings)
        restored.load_state_dict(through_json(walker.state_dict()))
        assert restored.num_batches == position
        tail = restored.take(40)
        assert uses(tail) == uses(whole[position : position + 40])
        assert [b.num_entered for b in tail] == [b.num_entered for b in whole[position : position + 40]]
        assert [b.lag.tolist() for b in tail] == [b.lag.tolist() for b in whole[position : position + 40]]
        walker.advance(1)


@every_echo
def test_a_state_does_not_depend_on_how_the_plan_got_there(echo):
    stepwise, jumped, restored = plan(**echo), plan(**echo), plan(**echo)
    for _ in range(30):
        stepwise.take(1)
    jumped.advance(30)
    restored.load_state_dict(jumped.state_dict())
    np.testing.assert_equal(jumped.state_dict(), stepwise.state_dict())
    np.testing.assert_equal(restored.state_dict(), stepwise.state_dict())


@every_echo
def test_restored_at_100_positions_of_a_million_uses(echo):
    settings = {"size": 60_000, "batch_size": 100, "shuffle_buffer": 10_000, **echo}
    walker, reference = plan(**settings), plan(**settings)
    for _ in range(100):
        walker.advance(99)
        reference.advance(99)
        state = walker.state_dict()
        walker = plan(**settings)
        walker.load_state_dict(state)
        assert uses(walker.take(1)) == uses(reference.take(1))
    assert walker.num_batches == 10_000


def test_a_state_of_another_plan_is_refused_with_both_values():
    state = plan(factor=2.0).state_dict()
    for key, settings in {
        "factor": {"factor": 3.0},
        "seed": {"factor": 2.0, "seed": 1},
        "shuffle_buffer": {"factor": 2.0, "shuffle_buffer": 21},
        "batch_size": {"factor": 2.0, "batch_size": 9},
        "echo_batches": {"factor": 2.0, "echo_batches": True},
        "num_ranks": {"factor": 2.0, "num_ranks": 2},
    }.items():
        other = plan(**settings)
        with pytest.raises(
            SettingError, match=f"^{key}={shown(other.identity[key])} .*Allowed: {shown(state['identity'][key])},"
        ):
            other.load_state_dict(state)


@pytest.mark.parametrize("factor", [0.99, 0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_below_one_is_refused(factor):
    with pytest.raises(SettingError, match=r"factor=.*any real number >= 1"):
        plan(factor=factor)


def test_a_batch_larger_than_the_buffer_is_refused():
    with pytest.raises(SettingError, match=r"batch_size=21.*shuffle buffer, 20"):
        plan(batch_size=21)


def test_a_batch_buffer_without_batch_echo_is_refused():
    with pytest.raises(SettingError, match=r"echo.shuffle_buffer=3"):
        plan(factor=2.0, batch_shuffle_buffer=3)
