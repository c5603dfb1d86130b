"""What a preview shows is what a feed delivers: same plan, same stages, same keys."""

import itertools

import numpy as np
import pytest

from dataecho.build import build
from dataecho.errors import SettingError
from dataecho.pictures.trace import trace
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Broken
from dataecho.plan.factors import FactorHistory
from dataecho.training.contracts import Task
from dataecho_tasks.digits.data import Digits
from tests.support import config


def digits(*overrides):
    sizes = ("task.batch_size=8", "task.shuffle_buffer=32", "task.num_held_out=1700", "task.max_shift=3")
    return build(config(*sizes, *overrides)["task"], Task, key="task")


def traced(task, after, factor, *, source=None, batch_buffer=0, num_examples=4, num_repeats=4, seed=3):
    return trace(
        task,
        task.train_source() if source is None else source,
        echo_after=after,
        factor=FactorHistory.constant(factor),
        batch_shuffle_buffer=batch_buffer,
        seed=seed,
        num_examples=num_examples,
        num_repeats=num_repeats,
    )


def delivered(task, after, factor, *, batch_buffer=0, num_steps=60, seed=3):
    """By name of the example: (step, pixels that a person would see) of every row that a real feed delivers."""
    source, rows = task.train_source(), {}
    with Feed(
        source,
        task.stages(),
        batch_size=task.batch_size,
        shuffle_buffer=task.shuffle_buffer,
        seed=seed,
        echo_after=after,
        factor=factor,
        batch_shuffle_buffer=batch_buffer,
    ) as feed:
        for step, batch in enumerate(itertools.islice(feed, num_steps), start=1):
            for row in range(len(batch)):
                if batch.planned.epoch[row] == 0:
                    name = source.name(int(batch.planned.shard[row]), int(batch.planned.k[row]))
                    example = {field: values[row].copy() for field, values in batch.arrays.items()}
                    rows.setdefault(name, []).append((step, task.show(example).image))
            batch.release()
    return rows


CASES = {
    "before augmentation": ("before_augmentation", 4.0, ("read", "decode"), ("shift",)),
    "after augmentation": ("after_augmentation", 3.0, ("read", "decode", "shift"), ("batch",)),
    "encoded": ("read", 2.0, ("read",), ("decode", "shift")),
    "batch": ("batch", 3.0, ("read", "decode", "shift"), ("batch",)),
    "device": ("device", 2.0, ("read", "decode", "shift"), ("device",)),
    "not whole": ("before_augmentation", 2.5, ("read", "decode"), ("shift",)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_repeat_is_what_a_feed_delivers_at_that_step(case):
    after, factor, once, repeated = CASES[case]
    task = digits()
    found, rows = traced(task, after, factor), delivered(task, after, factor)
    assert (found.once, found.repeated, found.random) == (once, repeated, {"shift"})
    assert len({example.name for example in found.examples}) == len(found.examples) == 4
    for example in found.examples:
        assert len(example.repeats) == example.num_repeats == len(rows[example.name])
        for repeat, (step, pixels) in zip(example.repeats, rows[example.name], strict=True):
            assert repeat.step == step
            np.testing.assert_array_equal(repeat.shown[-1].image, pixels)


def test_repeats_after_the_augmentation_are_alike_and_before_it_are_not():
    task = digits()
    for after, num_kinds in (("after_augmentation", {1}), ("batch", {1}), ("before_augmentation", {2, 3, 4})):
        for example in traced(task, after, 4.0).examples:
            kinds = {repeat.shown[-1].image.tobytes() for repeat in example.repeats}
            assert len(example.repeats) == 4 and len(kinds) in num_kinds, after


def test_factors_that_are_not_whole_give_both_numbers_of_uses():
    assert {example.num_repeats for example in traced(digits(), "decode", 2.5, num_examples=8).examples} == {2, 3}


def test_without_echo_there_are_the_first_rows_of_the_first_batch():
    task = digits()
    found, rows = traced(task, None, 1.0), delivered(task, None, 1.0, num_steps=1)
    assert (found.once, found.repeated) == (("read", "decode", "shift"), ())
    assert [example.name for example in found.examples] == list(rows)[:4]
    for example in found.examples:
        ((_, pixels),) = rows[example.name]
        np.testing.assert_array_equal(example.once[-1].image, pixels)
        assert example.repeats == ()


def test_batch_echo_shows_two_batches_and_when_their_copies_come():
    found = traced(digits(), "batch", 3.0)
    assert [example.batch for example in found.examples] == [1, 1, 2, 2]
    steps = [[repeat.step for repeat in example.repeats] for example in found.examples]
    assert steps == [[1, 2, 3]] * 2 + [[4, 5, 6]] * 2
    mixed = traced(digits(), "batch", 3.0, batch_buffer=8)
    rows = delivered(digits(), "batch", 3.0, batch_buffer=8)
    for example in mixed.examples:
        assert [repeat.step for repeat in example.repeats] == [step for step, _ in rows[example.name]]


def test_no_more_repeats_and_examples_than_asked_for():
    found = traced(digits(), "decode", 7.0, num_examples=3, num_repeats=2)
    assert [(example.num_repeats, len(example.repeats)) for example in found.examples] == [(7, 2)] * 3
    assert len(traced(digits(), None, 1.0, num_examples=50).examples) == 8  # a batch has no more


def test_seeds_differ_and_the_same_one_gives_the_same():
    task = digits()

    def names(seed):
        return [example.name for example in traced(task, "decode", 2.0, seed=seed).examples]

    assert names(3) == names(3) != names(4)


class Damaged(ArraySource):
    """Example 5 cannot be read."""

    def read(self, shards, ks):
        records = [{"image": np.zeros((1, 8, 8), np.uint8), "label": np.int64(k)} for k in ks.tolist()]
        return [Broken("cut short") if record["label"] == 5 else record for record in records]


class Shy(Digits):
    """Example 6 cannot be shown."""

    def show(self, example):
        if example["label"] == 6:
            raise ValueError("not today")
        return super().show(example)


def test_a_broken_example_is_shown_as_what_it_is():
    task = digits("task._target_=tests.pictures.test_trace.Shy", "task.shuffle_buffer=0")
    source = Damaged({"k": np.arange(8)})
    found = traced(task, "before_augmentation", 1.0, source=source, num_examples=8)
    whole, broken, odd = (
        next(example for example in found.examples if example.name == f"example {k} of shard 0") for k in (4, 5, 6)
    )
    assert [shown.caption for shown in whole.once] == ["4", "4"]
    assert [shown.text for shown in broken.once] == ["broken: read: cut short"] * 2
    assert [repeat.shown[0].text for repeat in broken.repeats] == ["broken: read: cut short"]
    assert [shown.text for shown in odd.once] == ["cannot be shown: ValueError: not today"] * 2
    assert broken.once[0].is_right is False


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(SettingError, match="batch_size=8 .*at most the 3 examples of the source"):
        traced(digits(), None, 1.0, source=ArraySource({"image": np.zeros((3, 1, 8, 8), np.uint8)}))
    with pytest.raises(SettingError, match="echo.after=augment .*before_augmentation"):
        traced(digits(), "augment", 2.0)


def test_a_shard_that_was_asked_for_its_length_is_told_of_once():
    told, task = [], digits()
    trace(
        task,
        task.train_source(),
        echo_after=None,
        factor=FactorHistory.constant(1),
        batch_shuffle_buffer=0,
        seed=3,
        num_examples=4,
        num_repeats=4,
        on_shard=told.append,
    )
    assert told == [task.train_source().num_examples(0)]
