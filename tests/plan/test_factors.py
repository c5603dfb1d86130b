"""A factor that changes: exact plans under a history, cursors that agree, and the file it is kept in."""

import json
import threading
from collections import Counter

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.plan.echo import EchoFactor
from dataecho.plan.events import NeedsLength
from dataecho.plan.factors import FactorHistory, read_history, write_history
from dataecho.plan.keys import KeyStream
from dataecho.plan.plan import OPEN_BLOCK, Plan
from tests.plan.test_plan import by_hand, through_json, uses

CHANGES = [(0, 1.0), (37, 2.5), (90, 8.0), (120, 1.0), (121, 3.0)]
BATCH_CHANGES = [(0, 2.0), (5, 3.5), (11, 1.0), (12, 4.0)]
LEVELS = {
    "items": (CHANGES, {}),
    "batches": (BATCH_CHANGES, {"echo_batches": True}),
    "batches shuffled": (BATCH_CHANGES, {"echo_batches": True, "batch_shuffle_buffer": 3}),
}
every_level = pytest.mark.parametrize(("changes", "level"), LEVELS.values(), ids=LEVELS.keys())


def plan(factor, *, size=50, lengths=None, **settings):
    settings = {"num_shards": 1, "seed": 0, "batch_size": 8, "shuffle_buffer": 20, **settings}
    return Plan({0: size} if lengths is None else lengths, factor=factor, **settings)


def same(batches, others):
    assert uses(batches) == uses(others)
    for name in ("num_entered", "num_fresh", "batch_ordinal", "batch_repeat", "num_batch_repeats"):
        assert [getattr(b, name) for b in batches] == [getattr(b, name) for b in others], name
    np.testing.assert_array_equal(np.stack([b.lag for b in batches]), np.stack([b.lag for b in others]))


def test_every_entry_has_the_factor_of_the_last_change_at_or_before_it():
    history = FactorHistory.recorded(CHANGES)
    expected = [1.0] * 37 + [2.5] * 53 + [8.0] * 30 + [1.0] + [3.0] * 9
    assert history.at(np.arange(130)).tolist() == expected
    for first, end in [(0, 1), (0, 37), (36, 38), (37, 90), (89, 91), (90, 120), (90, 121), (121, 999), (0, 130)]:
        assert history.between(first, end) == (min(expected[first:end]), max(expected[first:end]))


@every_level
def test_a_plan_under_a_history_equals_the_sliding_buffer_by_hand(changes, level):
    batches = plan(FactorHistory.recorded(changes), **level).take(60)
    name = "batches" if level else "items"
    factors = [next(factor for ordinal, factor in reversed(changes) if ordinal <= entry) for entry in range(700)]
    drawn = KeyStream(0, f"{name}.uses").uniform(np.arange(700))
    num_uses = [int(factor) + (draw < factor % 1) for factor, draw in zip(factors, drawn.tolist(), strict=True)]
    length = level.get("batch_shuffle_buffer", 0) if level else 20
    num_steps = 60 if level else 60 * 8
    slots = KeyStream(0, f"{name}.buffer").integers(max(1, length), np.arange(num_steps)).tolist()
    if level:
        left = [(b.batch_ordinal, b.batch_repeat) for b in batches]
    else:
        left = [(use[0], use[3]) for use in uses(batches)]
    if length:
        assert left == by_hand(range(700), num_uses, slots, length)
    else:
        assert left == [(entry, repeat) for entry in range(700) for repeat in range(num_uses[entry])][:num_steps]


@every_level
@pytest.mark.parametrize("split", [(1,) * 40, (3, 17, 20)])
def test_how_a_plan_under_a_history_is_cut_into_calls_changes_nothing(changes, level, split):
    whole = plan(FactorHistory.recorded(changes), **level).take(40)
    again = plan(FactorHistory.recorded(changes), **level)
    same([batch for count in split for batch in again.take(count)], whole)


@every_level
@pytest.mark.parametrize("is_open", [False, True])
def test_restored_at_every_position_of_a_plan_whose_factor_changes(changes, level, is_open):
    """Open: what was decided is in the state, also what the restored cursor has yet to reach."""
    ahead = plan(FactorHistory.recorded(changes), **level)
    whole = ahead.take(100)
    walker = plan(_decided(changes) if is_open else FactorHistory.recorded(changes), **level)
    for position in range(80):
        state = through_json(walker.state_dict())
        restored = plan(FactorHistory.to_be_decided() if is_open else FactorHistory.recorded(changes), **level)
        restored.load_state_dict(state)
        same(restored.take(20), whole[position : position + 20])
        walker.advance(1)


def _decided(changes):
    """An open history in which all of this has been decided, as a cursor far ahead has it."""
    history = FactorHistory.to_be_decided()
    for ordinal, factor in changes:
        history.settle(0, lambda ordinal=ordinal: np.ones(ordinal, dtype=np.int64))
        assert history.change(factor) == ordinal
    return history


@every_level
def test_a_change_while_planning_ahead_reaches_the_first_entry_that_was_not_planned(changes, level):
    history = FactorHistory.to_be_decided()
    ahead, cursor = plan(history, **level), plan(history, **level)
    planned, followed, decided = [], [], [(0, 1.0)]
    for number, factor in enumerate([4.0, 2.5, 1.0, 6.5, 2.0]):
        planned += ahead.take(3 + number)
        followed += cursor.take(2)  # somewhere behind
        entered = ahead.state_dict()["batches" if level else "items"]["num_entered"]
        assert history.change(factor) == entered
        decided.append((entered, factor))
    planned += ahead.take(10)
    followed += cursor.take(len(planned) - len(followed))
    assert history.changes == decided
    same(followed, planned)
    replayed = plan(FactorHistory.recorded(decided), **level)
    same(replayed.take(len(planned)), planned)
    factors = dict(decided)
    for ordinal in factors:  # the first entry of each stretch has what was decided
        if level:
            count = next(b.num_batch_repeats for b in planned if b.batch_ordinal == ordinal)
        else:
            count = next(use[4] for use in uses(planned) if use[0] == ordinal)
        assert count in (int(factors[ordinal]), int(factors[ordinal]) + 1)


@every_level
def test_changes_from_another_thread_than_the_planning_one_are_seen_alike_by_both_cursors(changes, level):
    history = FactorHistory.to_be_decided()
    ahead, cursor = plan(history, size=2000, **level), plan(history, size=2000, **level)
    planned, stop = [], threading.Event()

    def run():
        while not stop.is_set() or len(planned) < 400:
            planned.extend(ahead.take(OPEN_BLOCK))

    thread = threading.Thread(target=run)
    thread.start()
    factors = np.random.default_rng(0).uniform(1, 5, 200).tolist()
    ordinals = []
    for factor in factors:
        before = len(planned)
        ordinals.append(history.change(factor))
        while len(planned) == before and thread.is_alive():
            pass
    stop.set()
    thread.join()
    assert ordinals == sorted(ordinals) and len(history.changes) > 20
    same(cursor.take(len(planned)), planned)
    same(plan(FactorHistory.recorded(history.changes), size=2000, **level).take(len(planned)), planned)


def test_a_change_while_a_length_is_missing_concerns_what_has_not_entered():
    history, lengths = FactorHistory.to_be_decided(), {}
    ahead = plan(history, lengths=lengths)
    assert ahead.next_event(1) == NeedsLength(0)
    ordinal = history.change(4.0)
    lengths[0] = 50
    batches = ahead.take(20)
    assert ordinal == 28  # what fills the buffer and the first batch is on its way
    counts = Counter(use[4] for use in uses(batches) if use[0] >= 28)
    assert set(counts) == {4} and {use[4] for use in uses(batches) if use[0] < 28} == {1}


def test_what_was_decided_for_later_is_forgotten_by_a_change_before_it():
    history = FactorHistory.to_be_decided()
    ahead, cursor = plan(history), plan(history)
    ahead.take(12)
    first = history.change(4.0)
    cursor.take(3)
    state = through_json(cursor.state_dict())
    assert state["factors"] == [[0, 1.0], [first, 4.0]]
    resumed = FactorHistory.to_be_decided()
    follower = plan(resumed)
    follower.load_state_dict(state)
    assert resumed.changes == history.changes
    earlier = resumed.change(2.0)
    assert earlier == state["items"]["num_entered"] < first
    assert resumed.changes == [(0, 1.0), (earlier, 2.0)]


def test_two_changes_before_anything_enters_are_one():
    history = FactorHistory.to_be_decided()
    plan(history).take(1)
    first = history.change(2.0)
    assert history.change(3.0) == first
    assert history.changes == [(0, 1.0), (first, 3.0)] and history.newest == 3.0


def test_an_open_plan_is_not_far_ahead():
    assert plan(FactorHistory.to_be_decided()).block_length == OPEN_BLOCK
    assert plan(FactorHistory.recorded(CHANGES)).block_length == plan(2.0).block_length == 8192 // 8


def test_without_a_change_an_open_factor_is_no_echo():
    same(plan(FactorHistory.to_be_decided()).take(50), plan(1.0).take(50))


def test_the_same_history_gives_the_same_uses_whatever_came_after():
    """Draws are keyed by the entry's ordinal: entries before a change are not touched by it."""
    stream = KeyStream(0, "items.uses")
    longer = EchoFactor(FactorHistory.recorded(CHANGES), stream).num_uses(np.arange(90))
    shorter = EchoFactor(FactorHistory.recorded(CHANGES[:2]), stream).num_uses(np.arange(90))
    np.testing.assert_array_equal(longer, shorter)


def test_a_state_of_another_kind_of_factor_is_refused_with_both_values():
    recorded = FactorHistory.recorded(CHANGES)
    other = FactorHistory.recorded(CHANGES[:-1])
    kinds = {"auto": FactorHistory.to_be_decided(), "2.5": FactorHistory.constant(2.5)}
    kinds |= {recorded.identity: recorded, other.identity: other}
    assert len(kinds) == 4
    for mine, factor in kinds.items():
        for theirs, saved in kinds.items():
            state = through_json(plan(saved).state_dict())
            if mine == theirs:
                plan(factor).load_state_dict(state)
                continue
            with pytest.raises(SettingError, match=f"^factor={mine} cannot be used. Allowed: {theirs}, the value the"):
                plan(factor).load_state_dict(state)


def test_a_fixed_factor_cannot_be_changed():
    for fixed in (FactorHistory.constant(2.5), FactorHistory.recorded([(0, 2.5)])):
        with pytest.raises(SettingError, match="factor=4 cannot .*(2.5|history .*), which was fixed before the run"):
            fixed.change(4.0)


@pytest.mark.parametrize("factor", [0.99, float("nan"), float("inf"), 65537.0])
def test_a_change_to_what_is_no_factor_is_refused(factor):
    history = FactorHistory.to_be_decided()
    with pytest.raises(SettingError, match="factor=.*any real number >= 1"):
        history.change(factor)
    assert history.changes == [(0, 1.0)]


# The file


@pytest.mark.parametrize("echoes_batches", [False, True])
def test_a_history_that_was_written_is_read_as_it_was(tmp_path, echoes_batches):
    history = FactorHistory.to_be_decided()
    for entered, factor in [(20, 5.37), (1234567890123, 1 / 3 + 3)]:
        history.settle(0, lambda entered=entered: range(entered))
        history.change(factor)
    path = write_history(tmp_path, [history.changes], echoes_batches=echoes_batches)
    assert [item.name for item in tmp_path.iterdir()] == ["factor_history.json"]
    again = read_history(path, echoes_batches=echoes_batches)
    assert again.changes == history.changes == [(0, 1.0), (20, 5.37), (1234567890123, 1 / 3 + 3)]
    assert not again.is_open and again.identity == FactorHistory.recorded(history.changes).identity


def test_a_file_has_every_change_as_rank_ordinal_factor(tmp_path):
    path = write_history(tmp_path, [[(0, 2.0)], CHANGES], echoes_batches=False)
    changes = json.loads(path.read_text())["changes"]
    assert changes == [[0, 0, 2.0], *([1, ordinal, factor] for ordinal, factor in CHANGES)]
    assert read_history(path, echoes_batches=False, rank=1).changes == CHANGES
    assert read_history(path, echoes_batches=False, rank=0).changes == [(0, 2.0)]


GOOD = {"format": 1, "entries": "examples", "changes": [[0, 0, 1.0], [0, 50, 2.5]]}
UNUSABLE = {
    "missing": (None, "it cannot be read .No such file"),
    "empty": ("", "it is damaged, or something else"),
    "cut short": (json.dumps(GOOD)[:-3], "it is damaged"),
    "not text": ("\x80\x81", "it is damaged"),
    "something else": ('{"loss": 3}', "it is damaged, or something else"),
    "a list": ("[1, 2]", "it is damaged"),
    "another format": ({**GOOD, "format": 2}, "it has format 2, this version reads format 1"),
    "batches": ({**GOOD, "entries": "batches"}, "it counts batches, and this echo repeats examples"),
    "no change": ({**GOOD, "changes": []}, "it has no change of rank 0"),
    "another rank": ({**GOOD, "changes": [[1, 0, 2.0]]}, "it has no change of rank 0"),
    "late beginning": ({**GOOD, "changes": [[0, 5, 2.0]]}, "it begins with entry 5, not 0"),
    "not increasing": (
        {**GOOD, "changes": [[0, 0, 1.0], [0, 9, 2.0], [0, 9, 3.0]]},
        "its entry ordinals must increase, and 9 comes after 9",
    ),
    "a factor below 1": ({**GOOD, "changes": [[0, 0, 0.5]]}, "it has the factor 0.5, and allowed is any real"),
    "no number": ({**GOOD, "changes": [[0, 0, float("nan")]]}, "it has the factor nan"),
    "text": ({**GOOD, "changes": [[0, 0, "two"]]}, "it is damaged"),
    "half an ordinal": ({**GOOD, "changes": [[0, 0.5, 2.0]]}, "it is damaged"),
    "two columns": ({**GOOD, "changes": [[0, 2.0]]}, "it is damaged"),
}


@pytest.mark.parametrize(("content", "why"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_file_that_is_no_history_of_this_echo_is_refused(tmp_path, content, why):
    path = tmp_path / "history.json"
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(text.encode("latin-1"))
    message = rf"^factor={path} cannot be used. Allowed: auto, or the factor_history.json of a .* replayed: {why}"
    with pytest.raises(SettingError, match=message):
        read_history(path, echoes_batches=False)


def test_a_good_file_is_read(tmp_path):
    (tmp_path / "history.json").write_text(json.dumps(GOOD))
    assert read_history(tmp_path / "history.json", echoes_batches=False).changes == [(0, 1.0), (50, 2.5)]
